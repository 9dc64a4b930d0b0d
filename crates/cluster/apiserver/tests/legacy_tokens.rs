//! Tokens in Secrets, as the controller manager makes them, on a real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use kinit_test_support::TestApiServer;
use reqwest::Client;
use serde_json::{Value, json};

const NS: &str = "/api/v1/namespaces/default";

struct Plane {
    server: TestApiServer,
    admin: Client,
    anybody: Client,
}

impl Plane {
    async fn start() -> Self {
        let server = TestApiServer::start_with(&["--anonymous-auth=false"]).await.unwrap();
        let admin = server.admin().unwrap().build().unwrap();
        let anybody = server.stranger().unwrap().build().unwrap();
        Self { server, admin, anybody }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.plane.url())
    }

    async fn create(&self, path: &str, object: &Value) -> Value {
        let response = self.admin.post(self.url(path)).json(object).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 201, "{object}");
        response.json().await.unwrap()
    }

    /// Who a token says one is; the code where it is refused.
    /// A server that has just started may not have read its bindings yet, and refuses everybody: asked again.
    async fn whoami(&self, token: &str) -> Result<String, u16> {
        for _ in 0..100 {
            match self.ask_who(token).await {
                Err(403) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                answer => return answer,
            }
        }
        self.ask_who(token).await
    }

    async fn ask_who(&self, token: &str) -> Result<String, u16> {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let request = self.anybody.post(self.url(path)).bearer_auth(token).json(&json!({}));
        let response = request.send().await.unwrap();
        if !response.status().is_success() {
            return Err(response.status().as_u16());
        }
        let body: Value = response.json().await.unwrap();
        Ok(body["status"]["userInfo"]["username"].as_str().unwrap().to_owned())
    }

    fn sign(&self, secret: &str, uid: &str) -> String {
        let key = std::fs::read(self.server.pki.file("sa.key")).unwrap();
        let claims = json!({
            "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:robot",
            "kubernetes.io/serviceaccount/namespace": "default",
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": "robot",
            "kubernetes.io/serviceaccount/service-account.uid": uid,
        });
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &EncodingKey::from_ec_pem(&key).unwrap()).unwrap()
    }

    async fn keep(&self, secret: &str, token: &str) {
        let object = json!({"metadata": {"name": secret, "annotations": {"kubernetes.io/service-account.name": "robot"}},
            "type": "kubernetes.io/service-account-token", "stringData": {"token": token}});
        self.create(&format!("{NS}/secrets"), &object).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_as_long_as_its_secret_and_its_account() {
    let plane = Plane::start().await;
    let account = json!({"metadata": {"name": "robot"}});
    let made = plane.create(&format!("{NS}/serviceaccounts"), &account).await;
    let uid = made["metadata"]["uid"].as_str().unwrap();

    let (token, other) = (plane.sign("kept", uid), plane.sign("kept-not", uid));
    assert_eq!(plane.whoami(&token).await, Err(401), "no Secret holds it yet");
    plane.keep("kept", &token).await;
    let robot = Ok("system:serviceaccount:default:robot".to_owned());
    assert_eq!(plane.whoami(&token).await, robot);
    assert_eq!(plane.whoami(&other).await, Err(401), "its Secret is not there");
    plane.keep("kept-not", &token).await;
    assert_eq!(plane.whoami(&other).await, Err(401), "its Secret holds another token");
    let stranger = plane.sign("strange", "another-uid");
    plane.keep("strange", &stranger).await;
    assert_eq!(plane.whoami(&stranger).await, Err(401), "the account has another UID");
    let (head, tail) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", tail.chars().rev().collect::<String>());
    assert_eq!(plane.whoami(&forged).await, Err(401), "the signature is not good");

    let review = json!({"spec": {"token": token, "audiences": ["elsewhere"]}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = plane.create(path, &review).await;
    assert_ne!(review["status"]["authenticated"], true, "it is good for the API server alone");

    let second = plane.sign("second", uid);
    plane.keep("second", &second).await;
    plane.admin.delete(plane.url(&format!("{NS}/secrets/kept"))).send().await.unwrap().error_for_status().unwrap();
    assert_eq!(plane.whoami(&token).await, Err(401), "its Secret is gone");
    assert_eq!(plane.whoami(&second).await, robot);
    plane
        .admin
        .delete(plane.url(&format!("{NS}/serviceaccounts/robot")))
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    assert_eq!(plane.whoami(&second).await, Err(401), "its account is gone");
}
