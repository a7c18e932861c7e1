//! `GET /`: one page for people, in one file without anything from elsewhere; it draws what `/status` and `/hour` tell.
//!
//! The browser is told to run just this file's script and no other, by its digest, and to ask nobody but this agent. Nothing
//! can be changed here: there is no request but GET.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use shared::http;

use crate::status::Reporter;

const PAGE: &str = include_str!("page.html");

/// The page, `/status` and `/hour`.
pub(crate) fn router(reporter: &Reporter) -> Router {
    let policy = HeaderValue::try_from(policy()).expect("digests and words are ASCII");
    let reporter = reporter.clone();
    http::status(reporter.books())
        .route("/", get(async move || page(&policy)))
        .route("/hour", get(async move || Json(reporter.hour())))
}

fn page(policy: &HeaderValue) -> Response {
    let kept = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.clone()),
        kept(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        kept(header::X_FRAME_OPTIONS, "DENY"),
        kept(header::REFERRER_POLICY, "no-referrer"),
        kept(header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(PAGE)).into_response()
}

fn policy() -> String {
    let (style, script) = (digest("style"), digest("script"));
    format!(
        "default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// By it the browser recognises what stands between these tags.
fn digest(tag: &str) -> String {
    let digest = Sha256::digest(between(PAGE, tag).unwrap_or_default());
    format!("sha256-{}", base64::engine::general_purpose::STANDARD.encode(digest))
}

fn between<'p>(page: &'p str, tag: &str) -> Option<&'p str> {
    let (_, rest) = page.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the policy does not name the browser does not run, so it must all stand in the two places that are named.
    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        for tag in ["style", "script"] {
            assert_eq!((PAGE.matches(&format!("<{tag}")).count(), PAGE.matches(&format!("<{tag}>")).count()), (1, 1));
            assert!(between(PAGE, tag).is_some_and(|inside| 100 < inside.len()), "{tag}");
        }
        let markup = PAGE.replace(between(PAGE, "script").expect("a script"), "");
        for forbidden in
            [" style=", " onclick=", " onload=", "src=", "url(", "@import", "<iframe", "<form", "javascript:"]
        {
            assert!(!markup.contains(forbidden), "{forbidden}");
        }
        let script = between(PAGE, "script").expect("a script");
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "setAttribute(\"style"]
        {
            assert!(!script.contains(forbidden), "what devices sent must stay text: {forbidden}");
        }
    }

    #[test]
    fn the_page_names_no_other_host() {
        let namespace = "http://www.w3.org/2000/svg";
        let others = PAGE.replace(namespace, "");
        assert!(!others.contains("http:") && !others.contains("https:") && !others.contains("\"//"));
        assert!(PAGE.len() < 24 * 1024, "{}", PAGE.len());
    }

    #[test]
    fn the_policy_lets_one_script_run() {
        let policy = policy();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(policy.matches("'sha256-").count(), 2, "{policy}");
    }
}
