//! Models of mode `append` and `full`.

use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt as _;

use super::inputs::{File, Inputs};
use super::model::{Model, Source};
use super::planned::CATALOGUE;
use super::rewrite::{Rewrite, as_table, select};
use super::windowed::Scope;
use crate::lake::{FileWriter, Lake, LakeError, Removes, Table};
use crate::silver::devices::{joined, joins};

/// Rows that one SELECT of an `append` reads.
const ROWS_MAX: u64 = 1_000_000;

/// Computes the rows that new rows give, each by itself.
///
/// # Errors
/// When a file can't be read or written, or the SELECT fails.
pub async fn append(
    lake: &Lake,
    session: &SessionContext,
    model: &Model,
    inputs: &Inputs,
    scope: &Scope,
) -> Result<Rewrite, LakeError> {
    let (files, removes) = match scope {
        Scope::New(files) => (files.clone(), Removes::Nothing),
        Scope::All => (inputs.all_files(), Removes::All),
    };
    if files.is_empty() && removes == Removes::Nothing {
        return Ok(Rewrite::nothing());
    }
    let mut writer = lake.writer(model.target).await?;
    let filled = append_to(&mut writer, session, model, inputs, &files).await;
    let (adds, rows) = writer.finish_if(filled).await?;
    Ok(Rewrite { adds, removes, rows })
}

async fn append_to(
    writer: &mut FileWriter,
    session: &SessionContext,
    model: &Model,
    inputs: &Inputs,
    files: &[File],
) -> Result<u64, LakeError> {
    let mut written = 0;
    let mut at = 0;
    while at < files.len() {
        let (mut rows, mut held) = (vec![], 0);
        while let Some(File { source, add, .. }) = files.get(at)
            && held < ROWS_MAX
        {
            for batch in inputs.read(*source, add, &model.columns).await? {
                held += batch.num_rows() as u64;
                rows.push(batch);
            }
            at += 1;
        }
        for batch in select(session, &model.draft.sql, "readings", rows).await? {
            written += batch.num_rows() as u64;
            writer.write(as_table(model.target, &batch, None)?).await?;
        }
    }
    Ok(written)
}

/// Computes everything from all readings; what needs more memory than there is spills to disk.
///
/// # Errors
/// As [`append`].
pub async fn full(lake: &Lake, session: &SessionContext, model: &Model, inputs: &Inputs) -> Result<Rewrite, LakeError> {
    let failed = |source: DataFusionError| LakeError::Query { act: "compute a gold table", source: Box::new(source) };
    let names = ["model_readings", "model_devices", "readings"];
    let clear = || names.iter().try_for_each(|name| session.deregister_table(*name).map(|_| ())).map_err(failed);
    clear()?;
    session.register_table(names[0], inputs.view(Source::Readings).provider().await?).map_err(failed)?;
    session.register_table(names[1], lake.view(Table::SilverDevices).await?.provider().await?).map_err(failed)?;
    let columns: Vec<String> = model
        .columns
        .iter()
        .map(|name| match CATALOGUE.iter().find(|(known, _)| known == name) {
            Some((known, column)) => format!("{} as {known}", joined(column)),
            None if name == "rejected" => "false as rejected".to_owned(),
            None => format!("r.{name}"),
        })
        .collect();
    let join = if model.catalogue { joins(names[1]) } else { String::new() };
    let relation = format!("select {} from model_readings r {join}", columns.join(", "));
    let view = session.sql(&relation).await.map_err(failed)?.into_view();
    session.register_table(names[2], view).map_err(failed)?;
    let mut writer = lake.writer(model.target).await?;
    let filled = async {
        let mut written = 0;
        let frame = session.sql(&model.draft.sql).await.map_err(failed)?;
        let mut rows = frame.execute_stream().await.map_err(failed)?;
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            written += batch.num_rows() as u64;
            writer.write(as_table(model.target, &batch, None)?).await?;
        }
        Ok::<_, LakeError>(written)
    };
    let filled = filled.await;
    clear()?;
    let (adds, rows) = writer.finish_if(filled).await?;
    Ok(Rewrite { adds, removes: Removes::All, rows })
}
