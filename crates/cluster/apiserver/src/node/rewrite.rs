//! Answers of proxied servers, with their links led back through the proxy
//! (`k8s.io/apimachinery/pkg/util/proxy.Transport`).
//!
//! A server below `/api/v1/namespaces/NS/services/NAME/proxy` does not know that it is there: a `Location` or an HTML
//! link to `/page` gets that prefix. Links to other hosts and relative ones stay.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::{GzDecoder, GzEncoder};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use lol_html::send::{HtmlRewriter, Settings};
use lol_html::{OutputSink, element};
use parking_lot::Mutex;

/// Elements with the attributes that are links (`atomsToAttrs`).
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// What of links is known: whose answer it is, and where that server seems to be.
#[derive(Debug, Clone)]
pub struct Links {
    /// The path of the proxy itself.
    pub prefix: String,
    /// `host:port` that was called, and the host the client called.
    pub hosts: [String; 2],
}

impl Links {
    /// A link as the client has to follow it.
    fn rewritten(&self, link: &str) -> Option<String> {
        let (host, rest) = match link.split_once("//") {
            Some((scheme, rest)) if scheme.is_empty() || scheme == "http:" || scheme == "https:" => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (&rest[..end], &rest[end..])
            }
            _ => ("", link),
        };
        if !host.is_empty() && !self.hosts.iter().any(|known| known == host) {
            return None;
        }
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (path, query) = rest.split_at(end);
        if !path.starts_with('/') {
            return None;
        }
        if path.starts_with(&self.prefix) {
            return Some(rest.to_owned());
        }
        Some(format!("{}{path}{query}", self.prefix))
    }

    /// Rewrites the header, and says how the body must be rewritten, if at all.
    pub fn headers(&self, headers: &mut HeaderMap) -> Option<Encoding> {
        if let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) {
            if let Some(Ok(value)) = self.rewritten(location).map(|link| HeaderValue::from_str(&link)) {
                headers.insert(LOCATION, value);
            }
            return None;
        }
        let of = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        let html = of(CONTENT_TYPE).split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("text/html");
        let encoding = match of(CONTENT_ENCODING) {
            "" | "identity" => Encoding::Plain,
            "gzip" => Encoding::Gzip,
            // What cannot be read goes on as it is.
            _ => return None,
        };
        html.then(|| {
            headers.remove(CONTENT_LENGTH);
            encoding
        })
    }
}

/// How an HTML body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// `gzip`.
    Gzip,
}

/// Where the pieces of a rewritten page arrive.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl OutputSink for Page {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        self.0.lock().extend_from_slice(chunk);
    }
}

/// What takes a compressed page apart, and what compresses it again.
type Gzip = (GzDecoder<Vec<u8>>, GzEncoder<Vec<u8>>);

/// Rewrites a page piece by piece.
pub struct Rewriter {
    html: Option<HtmlRewriter<'static, Page>>,
    page: Page,
    gzip: Option<Gzip>,
}

impl Rewriter {
    /// For a page with these links.
    pub fn new(links: &Links, encoding: Encoding) -> Self {
        let settings = LINKS.iter().fold(Settings::new_send(), |settings, (name, attributes)| {
            let links = links.clone();
            settings.append_element_content_handler(element!(*name, move |element| {
                for attribute in *attributes {
                    if let Some(link) = element.get_attribute(attribute).and_then(|link| links.rewritten(&link)) {
                        element.set_attribute(attribute, &link)?;
                    }
                }
                Ok(())
            }))
        });
        let page = Page::default();
        let gzip = (encoding == Encoding::Gzip)
            .then(|| (GzDecoder::new(Vec::new()), GzEncoder::new(Vec::new(), flate2::Compression::fast())));
        Self { html: Some(HtmlRewriter::new(settings, page.clone())), page, gzip }
    }

    /// What can be sent after a piece of the page came; an error when the page cannot be read.
    pub fn piece(&mut self, data: &[u8]) -> Result<Bytes, String> {
        let plain = match &mut self.gzip {
            None => data.to_vec(),
            Some((decoder, _)) => {
                decoder.write_all(data).and_then(|()| decoder.flush()).map_err(|e| e.to_string())?;
                std::mem::take(decoder.get_mut())
            }
        };
        if let Some(html) = &mut self.html {
            html.write(&plain).map_err(|e| e.to_string())?;
        }
        self.taken(false)
    }

    /// What is left at the end.
    pub fn end(&mut self) -> Result<Bytes, String> {
        if let Some((decoder, _)) = &mut self.gzip {
            decoder.try_finish().map_err(|e| e.to_string())?;
            let rest = std::mem::take(decoder.get_mut());
            if let Some(html) = &mut self.html {
                html.write(&rest).map_err(|e| e.to_string())?;
            }
        }
        if let Some(html) = self.html.take() {
            html.end().map_err(|e| e.to_string())?;
        }
        self.taken(true)
    }

    fn taken(&mut self, last: bool) -> Result<Bytes, String> {
        let plain = std::mem::take(&mut *self.page.0.lock());
        let Some((_, encoder)) = &mut self.gzip else { return Ok(plain.into()) };
        encoder.write_all(&plain).map_err(|e| e.to_string())?;
        if last {
            encoder.try_finish().map_err(|e| e.to_string())?;
        }
        Ok(std::mem::take(encoder.get_mut()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { prefix: "/api/v1/pods/p/proxy".into(), hosts: ["10.0.0.1:80".into(), "api:6443".into()] }
    }

    #[test]
    fn links_of_the_server_itself_get_the_prefix() {
        for (link, wanted) in [
            ("/a/b?c=/d#e", Some("/api/v1/pods/p/proxy/a/b?c=/d#e")),
            ("/", Some("/api/v1/pods/p/proxy/")),
            ("http://10.0.0.1:80/a", Some("/api/v1/pods/p/proxy/a")),
            ("https://api:6443/a", Some("/api/v1/pods/p/proxy/a")),
            ("//api:6443/a", Some("/api/v1/pods/p/proxy/a")),
            ("/api/v1/pods/p/proxy/a", Some("/api/v1/pods/p/proxy/a")),
            ("http://elsewhere/a", None),
            ("//elsewhere/a", None),
            ("a/b", None),
            ("../a", None),
            ("#x", None),
            ("?x", None),
            ("mailto:a//b", None),
            ("", None),
        ] {
            assert_eq!(links().rewritten(link).as_deref(), wanted, "{link}");
        }
    }

    const PAGE: &str = r#"<html><body><a class="x" href="/a">/a</a><img src='/i.png'><a href="b">b</a><p title="/p">&amp;</p><script>var a = "<a href='/no'>";</script></body></html>"#;
    const WANTED: &str = r#"<html><body><a class="x" href="/api/v1/pods/p/proxy/a">/a</a><img src="/api/v1/pods/p/proxy/i.png"><a href="b">b</a><p title="/p">&amp;</p><script>var a = "<a href='/no'>";</script></body></html>"#;

    #[test]
    fn pages_are_rewritten_in_pieces() {
        for size in [1, 7, PAGE.len()] {
            let mut rewriter = Rewriter::new(&links(), Encoding::Plain);
            let mut out = Vec::new();
            for piece in PAGE.as_bytes().chunks(size) {
                out.extend(rewriter.piece(piece).unwrap());
            }
            out.extend(rewriter.end().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), WANTED);
        }
    }

    #[test]
    fn compressed_pages_stay_compressed() {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(PAGE.as_bytes()).unwrap();
        let mut rewriter = Rewriter::new(&links(), Encoding::Gzip);
        let mut out = Vec::new();
        for piece in encoder.finish().unwrap().chunks(10) {
            out.extend(rewriter.piece(piece).unwrap());
        }
        out.extend(rewriter.end().unwrap());
        let mut decoder = GzDecoder::new(Vec::new());
        decoder.write_all(&out).unwrap();
        assert_eq!(String::from_utf8(decoder.finish().unwrap()).unwrap(), WANTED);
        assert!(Rewriter::new(&links(), Encoding::Gzip).piece(b"no gzip, and long enough to see it").is_err());
    }

    #[test]
    fn only_pages_are_rewritten() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
        };
        let mut page = headers(&[("content-type", "text/html; charset=utf-8"), ("content-length", "5")]);
        assert_eq!(links().headers(&mut page), Some(Encoding::Plain));
        assert!(!page.contains_key(CONTENT_LENGTH));
        assert_eq!(links().headers(&mut headers(&[("content-type", "application/json")])), None);
        assert_eq!(links().headers(&mut headers(&[("content-type", "text/html"), ("content-encoding", "br")])), None);
        let mut redirect = headers(&[("location", "/next"), ("content-type", "text/html")]);
        assert_eq!(
            (links().headers(&mut redirect), redirect[LOCATION].to_str().unwrap()),
            (None, "/api/v1/pods/p/proxy/next")
        );
    }
}
