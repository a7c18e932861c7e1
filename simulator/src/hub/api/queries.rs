//! `POST /devices/query`: questions about all devices, modules or jobs, page by page, in the order of their ids.

use std::sync::Arc;

use axum::http::HeaderName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::errors::Fault;
use super::pages::Page;
use super::query::{Query, Row, Select, Source};
use super::rows::TwinRow;
use super::{Answer, Api, Asked};
use crate::hub::devices::Device;
use crate::hub::who::Who;

const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
const ITEM_TYPE: HeaderName = HeaderName::from_static("x-ms-item-type");

#[derive(Deserialize)]
struct Question {
    query: String,
}

/// Items of a page, and what the next one is asked for by.
struct Found {
    items: Vec<Value>,
    next: Option<String>,
}

impl Api {
    pub(super) async fn query(self: &Arc<Self>, asked: &Asked) -> Result<Answer, Fault> {
        let text = asked.json::<Question>()?.query;
        let query = Query::parse(&text).map_err(|fault| Fault::argument(fault.to_string()))?;
        let (max, continuation) = (asked.header("x-ms-max-item-count"), asked.header(CONTINUATION.as_str()));
        let page = Page::read(max, continuation, &text)?;
        let kind = match (&query.select, query.source) {
            (Select::All, Source::Devices | Source::Modules) => "Twin",
            (Select::All, Source::Jobs) => "DeviceJob",
            _ => "Raw",
        };
        let api = Arc::clone(self);
        // Thousands of twins may be looked at.
        let found = tokio::task::spawn_blocking(move || api.find(&query, &page)).await;
        let found = found.map_err(|panic| Fault::server(panic.to_string()))?;
        let answer = Answer::json(Value::Array(found.items)).with(ITEM_TYPE, kind);
        Ok(match found.next {
            Some(next) => answer.with(CONTINUATION, &next),
            None => answer,
        })
    }

    fn find(&self, query: &Query, page: &Page) -> Found {
        match query.source {
            Source::Devices | Source::Modules => {
                let known = self.desk.registry.now();
                collect(query, page, self.rows(&sorted(known.devices()), query.source), |row| {
                    let Who { device, module } = row.who();
                    (device.clone(), module.clone().unwrap_or_default())
                })
            }
            Source::Jobs => collect(query, page, self.jobs.rows().into_iter(), |row| row.key()),
        }
    }

    /// Whom a job is for.
    pub(super) fn meant(&self, query: &Query) -> Vec<Who> {
        let known = self.desk.registry.now();
        let devices = sorted(known.devices());
        self.rows(&devices, query.source).filter(|row| query.admits(row)).map(|row| row.who().clone()).collect()
    }

    fn rows<'a>(&'a self, devices: &'a [Arc<Device>], source: Source) -> impl Iterator<Item = TwinRow<'a>> {
        devices.iter().flat_map(move |device| {
            let whole = (source == Source::Devices).then(|| TwinRow::of(self, device, None));
            let modules = device.modules.iter().filter(move |_| source == Source::Modules);
            // Of few, and not in the order of their ids.
            let mut modules: Vec<_> = modules.collect();
            modules.sort_unstable_by(|one, other| one.id.cmp(&other.id));
            whole.into_iter().chain(modules.into_iter().map(move |module| TwinRow::of(self, device, Some(module))))
        })
    }
}

fn sorted(devices: &[Arc<Device>]) -> Vec<Arc<Device>> {
    let mut devices = devices.to_vec();
    devices.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    devices
}

/// Looks at rows, which are in the order of their keys, until the page is full and one more is found.
fn collect<R: Row>(
    query: &Query,
    page: &Page,
    rows: impl Iterator<Item = R>,
    key: impl Fn(&R) -> (String, String),
) -> Found {
    if let Select::Count { name } = &query.select {
        let count = rows.filter(|row| query.admits(row)).take(query.top.unwrap_or(usize::MAX)).count();
        return Found { items: vec![json!({ name: count })], next: None };
    }
    let left = query.top.unwrap_or(usize::MAX).saturating_sub(page.given);
    let (mut items, mut last) = (vec![], None);
    for row in rows {
        if items.len() == left {
            break;
        }
        let of = key(&row);
        if !page.is_new((&of.0, &of.1)) || !query.admits(&row) {
            continue;
        }
        if items.len() == page.max {
            let next = last.map(|last| page.next(last, items.len()));
            return Found { items, next };
        }
        items.push(query.show(&row));
        last = Some(of);
    }
    Found { items, next: None }
}
