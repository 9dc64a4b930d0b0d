//! `ListOptions`: query parameters of lists, watches and deletes of collections
//! (`k8s.io/apimachinery/pkg/apis/meta/internalversion/validation`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::status::FieldErrors;

use super::Request;

/// What a list or a watch is told, besides selectors.
#[derive(Debug, Default)]
pub struct ListOptions<'a> {
    /// Objects a page; 0 for all.
    pub limit: usize,
    /// Where to go on.
    pub token: &'a str,
    /// `resourceVersion`.
    pub version: &'a str,
    /// `resourceVersionMatch`.
    pub matching: &'a str,
    /// `timeoutSeconds`; none for the server's choice.
    pub timeout: Option<u64>,
    /// `sendInitialEvents`.
    pub initial: Option<bool>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
}

/// Reads the options; 400 for what is no number, 422 for what does not go together.
pub fn list_options(request: &Request) -> Result<ListOptions<'_>, ApiError> {
    let text = |key: &str| request.param(key).unwrap_or("");
    let options = ListOptions {
        // A negative limit is none.
        limit: usize::try_from(integer(request, "limit")?.unwrap_or(0)).unwrap_or(0),
        token: text("continue"),
        version: text("resourceVersion"),
        matching: text("resourceVersionMatch"),
        timeout: integer(request, "timeoutSeconds")?.map(|s| u64::try_from(s).unwrap_or(1)).filter(|s| *s > 0),
        initial: request.param("sendInitialEvents").map(|_| request.flag("sendInitialEvents")),
        bookmarks: request.flag("allowWatchBookmarks"),
    };
    let mut errors = FieldErrors::default();
    if request.info.verb == "watch" {
        validate_watch(&options, &mut errors);
    } else {
        validate_list(&options, &mut errors);
    }
    ApiError::invalid_options("ListOptions", errors)?;
    Ok(options)
}

const MATCH: &str = "resourceVersionMatch";

fn validate_list(options: &ListOptions<'_>, errors: &mut FieldErrors) {
    if !options.matching.is_empty() {
        if options.version.is_empty() {
            errors.forbidden(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !options.token.is_empty() {
            errors.forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
        if !matches!(options.matching, "Exact" | "NotOlderThan") {
            errors.not_supported_of(MATCH, &options.matching.into(), &["Exact", "NotOlderThan", ""]);
        }
        if options.matching == "Exact" && options.version == "0" {
            errors.forbidden(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if options.initial.is_some() {
        errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
}

fn validate_watch(options: &ListOptions<'_>, errors: &mut FieldErrors) {
    if options.initial.is_some() && options.matching != "NotOlderThan" {
        errors.forbidden(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if options.matching.is_empty() {
        return;
    }
    if options.initial.is_none() {
        errors.forbidden(MATCH, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    }
    if options.matching != "NotOlderThan" {
        errors.not_supported_of(MATCH, &options.matching.into(), &["NotOlderThan"]);
    }
    if !options.token.is_empty() {
        errors.forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
    }
}

/// An integer parameter; 400 in the words of Go's `strconv`.
pub fn integer(request: &Request, key: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = request.param(key) else { return Ok(None) };
    text.parse().map(Some).map_err(|e: std::num::ParseIntError| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = if matches!(e.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
        ApiError::bad_request(format!("strconv.ParseInt: parsing \"{text}\": {why}"))
    })
}
