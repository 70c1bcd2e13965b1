//! `kr model list`: the cache's models, or a server's.

use kr_proto::serve::{ListModelsRequest, Model, ModelState};
use serde_json::{Value, json};

use crate::answer;
use crate::client::{Server, ServerArgs};
use crate::error::Error;

/// List models.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List what this server serves, instead of the cache.
    #[arg(long)]
    server: Option<String>,
    /// API key, where the server asks for one.
    #[arg(long, env = "KR_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The cache cannot be read, or the server does not answer.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let rows = match args.server {
        Some(server) => {
            served(&ServerArgs {
                server,
                api_key: args.api_key,
            })
            .await?
        }
        None => cached()?,
    };
    if args.json {
        return Ok(answer::print(&format!("{}\n", Value::from(rows)))?);
    }
    if rows.is_empty() {
        return Ok(answer::print("no models; `kr model pull demo` fetches one\n")?);
    }
    for row in rows {
        let field = |name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
        let about = ["state", "architecture", "weights", "context_tokens", "message", "path"];
        let about: Vec<_> = about
            .into_iter()
            .filter(|name| row.get(name).is_some())
            .map(field)
            .collect();
        answer::print(&format!("{:32} {}\n", field("name"), about.join("  ")))?;
    }
    Ok(())
}

async fn served(args: &ServerArgs) -> Result<Vec<Value>, Error> {
    let response = Server::connect(args)
        .await?
        .models()
        .list_models(ListModelsRequest {})
        .await?;
    Ok(response.into_inner().models.iter().map(model_json).collect())
}

fn model_json(model: &Model) -> Value {
    let state = match ModelState::try_from(model.state) {
        Ok(ModelState::Loading) => "loading",
        Ok(ModelState::Ready) => "ready",
        Ok(ModelState::Failed) => "failed",
        Ok(ModelState::Draining) => "draining",
        Ok(ModelState::Unspecified) | Err(_) => "unknown",
    };
    json!({
        "name": model.name, "aliases": model.aliases, "state": state, "message": model.message,
        "architecture": model.architecture, "parameter_count": model.parameter_count, "weights": model.weights,
        "context_tokens": model.context_tokens, "vocabulary_size": model.vocabulary_size,
        "model_digest": model.model_digest, "tokenizer_digest": model.tokenizer_digest,
        "numerics_fingerprint": model.numerics_fingerprint, "ready_workers": model.ready_workers,
        "configured_workers": model.configured_workers, "max_sequences": model.max_sequences,
    })
}

fn cached() -> Result<Vec<Value>, Error> {
    let folder = kr_boot::models_folder();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::File { path: folder, source }),
    };
    let mut rows = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|source| Error::File {
                path: folder.clone(),
                source,
            })?
            .path();
        let Ok(config) = std::fs::read(path.join("config.json")) else {
            continue;
        };
        let config: Value = serde_json::from_slice(&config).unwrap_or_default();
        rows.push(json!({
            "name": path.file_name().map(|name| name.to_string_lossy()),
            "architecture": config["architectures"][0],
            "context_tokens": config["max_position_embeddings"],
            "path": path,
        }));
    }
    rows.sort_by_key(|row| row["name"].to_string());
    Ok(rows)
}
