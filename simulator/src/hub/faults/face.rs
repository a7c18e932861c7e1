//! Rules over HTTP: `GET`, `POST` and `DELETE /faults`, `DELETE /faults/{id}`.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use shared::config::Mistakes;

use super::{Faults, Rule};

#[derive(Debug, Clone)]
struct Face {
    faults: Faults,
    partitions: u32,
}

/// The routes.
pub(in crate::hub) fn router(faults: Faults, partitions: u32) -> Router {
    Router::new()
        .route("/faults", get(list).post(add).delete(clear))
        .route("/faults/{id}", delete(remove))
        .with_state(Face { faults, partitions })
}

async fn list(State(face): State<Face>) -> Response {
    Json(face.faults.rules()).into_response()
}

async fn add(State(face): State<Face>, body: Result<Json<serde_json::Value>, JsonRejection>) -> Response {
    let refused = |why: String| (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response();
    let body = match body {
        Ok(Json(body)) => body,
        Err(error) => return (error.status(), format!("{}\n", error.body_text())).into_response(),
    };
    // One rule, or several that are taken together or not at all.
    let rules: Result<Vec<Rule>, _> = match body.is_array() {
        true => serde_json::from_value(body),
        false => serde_json::from_value(body).map(|rule| vec![rule]),
    };
    let rules = match rules {
        Ok(rules) => rules,
        Err(error) => return refused(error.to_string()),
    };
    let mut mistakes = Mistakes::default();
    for (at, rule) in rules.iter().enumerate() {
        mistakes.within(&format!("faults[{at}]"), |mistakes| rule.check(face.partitions, mistakes));
    }
    if !mistakes.is_empty() {
        let all: Vec<_> = mistakes.into_iter().map(|(path, message)| format!("{path} {message}")).collect();
        return refused(all.join("\n"));
    }
    let ids: Vec<u64> = rules.into_iter().map(|rule| face.faults.add(rule)).collect();
    (StatusCode::CREATED, Json(ids)).into_response()
}

async fn clear(State(face): State<Face>) -> StatusCode {
    face.faults.clear();
    StatusCode::NO_CONTENT
}

async fn remove(State(face): State<Face>, Path(id): Path<u64>) -> StatusCode {
    match face.faults.remove(id) {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::NOT_FOUND,
    }
}
