//! A simulated browser: an HTTP client that stores cookies and sends its access token.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use reqwest::{Method, header};
use serde_json::{Value, json};

use dca_test_support::MailSink;

use crate::support::harness::{TestApp, client};

/// A strong password, used by most accounts of the tests.
pub const PASSWORD: &str = "plow-Ketchup-41 sundial";

/// A response, read completely.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Response {
    /// The `Set-Cookie` headers.
    pub fn cookies(&self) -> Vec<String> {
        let all = self.headers.get_all(header::SET_COOKIE).iter();
        all.map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    /// The value of a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The `code` of a problem document; empty if there is none.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// A browser with its cookies and access token.
pub struct Browser {
    base: String,
    http: reqwest::Client,
    cookies: Mutex<BTreeMap<String, String>>,
    access: Mutex<Option<String>>,
}

impl Browser {
    /// Creates a browser without cookies.
    pub fn new(t: &TestApp) -> Self {
        Self::for_url(t.url(""))
    }

    /// Creates a browser for another instance.
    pub fn for_url(base: String) -> Self {
        let (cookies, access) = (Mutex::default(), Mutex::default());
        Self { base, http: client(), cookies, access }
    }

    /// Creates a browser whose user signed up, verified the email and signed in.
    pub async fn signed_in(t: &TestApp, mail: &MailSink, email: &str) -> Self {
        let browser = Self::new(t);
        browser.join(mail, email).await;
        let response = browser.sign_in(email).await;
        assert_eq!(response.status, 200, "{response:?}");
        browser
    }

    /// Signs up and verifies the email.
    pub async fn join(&self, mail: &MailSink, email: &str) {
        let form = json!({ "email": email, "password": PASSWORD, "name": "Somebody" });
        assert_eq!(self.post("/auth/signup", form).await.status, 201);
        let verification = mail.next(email).await;
        assert_eq!(self.post("/auth/verify-email", json!({ "token": verification.token() })).await.status, 201);
        mail.next(email).await;
    }

    /// Signs in with [`PASSWORD`].
    pub async fn sign_in(&self, email: &str) -> Response {
        self.post("/auth/login", json!({ "email": email, "password": PASSWORD })).await
    }

    /// The current access token.
    pub fn access_token(&self) -> Option<String> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces or removes the access token.
    pub fn set_access_token(&self, token: Option<&str>) {
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = token.map(str::to_owned);
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Sets or removes a cookie.
    pub fn set_cookie(&self, name: &str, value: Option<&str>) {
        let mut cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => _ = cookies.insert(name.to_owned(), value.to_owned()),
            None => _ = cookies.remove(name),
        }
    }

    /// Sends a `GET`.
    pub async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, Value::Null, &[]).await
    }

    /// Sends a `POST` with JSON; `null` sends no body.
    pub async fn post(&self, path: &str, body: Value) -> Response {
        self.ask(Method::POST, path, body, &[]).await
    }

    /// Sends any request. Stores cookies, ignoring their path, and the access token of the response.
    pub async fn ask(&self, method: Method, path: &str, body: Value, headers: &[(&str, &str)]) -> Response {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut request = self.http.request(method, url);
        let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !cookies.is_empty() {
            let line: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::COOKIE, line.join("; "));
        }
        if let Some(token) = self.access_token() {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = read(request.send().await.unwrap()).await;
        for cookie in response.cookies() {
            let (name, value) = cookie.split_once('=').unwrap();
            let value = value.split(';').next().unwrap();
            self.set_cookie(name, Some(value).filter(|value| !value.is_empty()));
        }
        if let Some(token) = response.body["accessToken"].as_str() {
            self.set_access_token(Some(token));
        }
        response
    }

    /// Submits a form, as a page without JavaScript does.
    pub async fn submit(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let mut request = self.http.post(format!("{}{path}", self.base)).form(form);
        let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !line.is_empty() {
            request = request.header(header::COOKIE, line.join("; "));
        }
        request = request.header(header::ACCEPT, "text/html").header("sec-fetch-site", "same-origin");
        let response = read(request.send().await.unwrap()).await;
        for cookie in response.cookies() {
            let (name, value) = cookie.split_once('=').unwrap();
            let value = value.split(';').next().unwrap();
            self.set_cookie(name, Some(value).filter(|value| !value.is_empty()));
        }
        response
    }
}

async fn read(response: reqwest::Response) -> Response {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    Response { status, headers, body: serde_json::from_str(&text).unwrap_or_default(), text }
}
