//! What `check` tries: the lake's storage and the hub, without changing either.

use std::time::Duration;

use crate::ask;
use crate::config::Config;
use crate::gold;
use crate::hop::catalogue;
use crate::lake::{Lake, LakeError, Lease};
use crate::source::eventhubs;

/// How long what listens at our address may take to say whom it serves.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What.
    pub(crate) what: &'static str,
    /// Whether it works.
    pub(crate) fine: bool,
    /// What was found, or what to do.
    pub(crate) detail: String,
}

impl Finding {
    fn new(what: &'static str, tried: Result<String, String>) -> Self {
        let fine = tried.is_ok();
        let detail = tried.unwrap_or_else(|why| why);
        Self { what, fine, detail }
    }
}

/// Tries everything `run` will need.
pub(crate) async fn tour(config: &Config) -> Vec<Finding> {
    let said = |tried: Result<String, LakeError>| tried.map_err(|error| shared::cli::chain(&error));
    let mut findings = vec![
        Finding::new("lake", said(lake(config).await)),
        Finding::new("models", models(config).await),
        Finding::new("http", listen(config).await),
        Finding::new("hub", hub(config).await),
    ];
    if let Some(written) = &config.silver.catalogue {
        findings.push(Finding::new("devices", devices(config, &written.source()).await));
    }
    findings
}

async fn devices(config: &Config, source: &catalogue::Source) -> Result<String, String> {
    let location = config.location().map_err(|error| error.to_string())?;
    let lake = Lake::open(location).map_err(|error| error.to_string())?;
    let entries = catalogue::read(source, &lake).await?;
    Ok(format!("{source} describes {} devices", entries.len()))
}

async fn lake(config: &Config) -> Result<String, LakeError> {
    let location = config.location()?;
    location.prepare()?;
    let (lake, _) = gold::models::open(location, config.gold.models.as_deref()).await?;
    lake.probe().await?;
    let mut tables = 0;
    for &table in lake.tables() {
        if lake.exists(table).await? {
            lake.view(table).await?.check()?;
            tables += 1;
        }
    }
    let root = lake.location().root();
    let holder = match Lease::holder(&lake).await? {
        Some(holder) => format!("; in use by {holder}"),
        None => String::new(),
    };
    Ok(format!(
        "{root}: writes, conditional writes, listing and removal work; {tables} of {} tables exist{holder}",
        lake.tables().len()
    ))
}

/// Users' models: each mistake with its file and line.
async fn models(config: &Config) -> Result<String, String> {
    let Some(folder) = config.gold.models.as_deref() else {
        return Ok("none but those of the product".to_owned());
    };
    let own = gold::models::own(folder).await.map_err(|error| shared::cli::chain(&error))?;
    let names: Vec<&str> = own.models.iter().map(|model| model.target.full_name()).collect();
    let fine = if names.is_empty() { "none fits".to_owned() } else { names.join(", ") };
    if own.mistakes.is_empty() {
        return Ok(format!("{}: {fine}", folder.display()));
    }
    let mistakes: Vec<String> = own.mistakes.iter().map(ToString::to_string).collect();
    Err(format!("{}\n     ok: {fine}", mistakes.join("\n              ")))
}

async fn listen(config: &Config) -> Result<String, String> {
    let listen = config.http.listen;
    match tokio::net::TcpListener::bind(listen).await {
        Ok(_) => Ok(format!("{listen} is free")),
        // Whoever checks the settings of a service that runs is not told to stop it.
        Err(_) if serves(config).await => Ok(format!("{listen} is that of the ingester which serves this lake now")),
        Err(error) => Err(format!("{listen}: {error}; stop what listens there or choose another `http.listen`")),
    }
}

/// Whether what listens at our address is an ingester of this very lake.
async fn serves(config: &Config) -> bool {
    #[derive(serde::Deserialize)]
    struct Told {
        lake: String,
    }
    let asked = tokio::time::timeout(ANSWERS_WITHIN, ask::get(&config.http.listen.to_string(), "/status")).await;
    let Ok(Ok((200, told))) = asked else { return false };
    // Whoever answers something else is another program, and the port is taken.
    let told = serde_json::from_str::<Told>(&told).ok();
    told.zip(config.location().ok()).is_some_and(|(told, location)| told.lake == location.root().as_str())
}

async fn hub(config: &Config) -> Result<String, String> {
    let target = config.target().map_err(|error| error.to_string())?;
    let client = eventhubs::open(&target).await?;
    let (name, incarnation, partitions) = eventhubs::describe(&client).await?;
    Ok(format!("{name} (created {incarnation}), {} partitions", partitions.len()))
}
