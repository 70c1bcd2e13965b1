//! Model folders that are damaged or not supported: the worker refuses them with file, place and cure, and the router tells
//! its clients.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::path::Path;

use kr_integration_tests::{Ran, Service, eventually, generate, greedy, program, prompt, real_model, run, workspace};
use kr_proto::serve::{ListModelsRequest, ModelState};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tonic_types::StatusExt as _;

/// A small model of two layers, to be damaged.
fn model() -> TempDir {
    let source = workspace().join("shared/model/fixtures/llama-tied");
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Starts a worker on a folder, which must end by itself.
async fn worker(model: &Path) -> Ran {
    let sockets = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", sockets.path().join("w.sock").display());
    let mut command = Command::new(program("kr-worker"));
    run(command.arg("--model").arg(model).args(["--listen", &listen])).await
}

/// The refusal is one line for people, naming all `parts`; no panic, no success.
fn assert_refused(ran: &Ran, parts: &[&str]) {
    assert_eq!(ran.status.code(), Some(65), "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    let said: Vec<_> = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with("kr-worker: "))
        .collect();
    assert_eq!(said.len(), 1, "{}", ran.stderr);
    for part in parts {
        assert!(said[0].contains(part), "{part:?} is not in {}", said[0]);
    }
}

fn edit_config(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

/// Replaces the header of the weights by what `change` makes of it; the data stays.
fn edit_header(folder: &Path, change: impl FnOnce(&mut Value) -> Option<Vec<u8>>) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let replaced = change(&mut header);
    let header = replaced.unwrap_or_else(|| header.to_string().into_bytes());
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], &header, data].concat()).unwrap();
}

#[tokio::test]
async fn damaged_weight_files_are_refused_by_name() {
    let cut = |bytes: u64| {
        move |path: &Path| {
            std::fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(bytes)
                .unwrap()
        }
    };
    let claim = |length: u64| {
        move |path: &Path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[..8].copy_from_slice(&length.to_le_bytes());
            std::fs::write(path, bytes).unwrap();
        }
    };
    type Damage = Box<dyn Fn(&Path)>;
    let cases: [(Damage, [&str; 2]); 8] = [
        (
            Box::new(|path: &Path| std::fs::remove_file(path).unwrap()),
            ["cannot read", "give the directory"],
        ),
        (Box::new(cut(0)), ["empty", "again"]),
        (Box::new(cut(4)), ["4 bytes, too few", "again"]),
        (Box::new(cut(100)), ["truncated", "again"]),
        (Box::new(cut(100_000)), ["header", "again"]),
        (Box::new(claim(1 << 63)), ["claims 9223372036854775808 bytes", "again"]),
        (Box::new(claim(1 << 40)), ["claims 1099511627776 bytes", "again"]),
        (
            Box::new(|path: &Path| std::fs::write(path, "<html>not found</html>").unwrap()),
            ["no safetensors", "again"],
        ),
    ];
    for (damage, [problem, cure]) in cases {
        let model = model();
        damage(&model.path().join("model.safetensors"));
        assert_refused(&worker(model.path()).await, &["model.safetensors", problem, cure]);
    }
}

/// The first tensor of a header.
fn first(header: &Value) -> String {
    let names = header.as_object().unwrap().keys();
    names.filter(|name| *name != "__metadata__").min().unwrap().clone()
}

#[tokio::test]
async fn headers_that_lie_are_refused() {
    let set = |field: &'static str, value: Value| {
        move |header: &mut Value| {
            let name = first(header);
            header[&name][field] = value;
            None
        }
    };
    type Change = Box<dyn FnOnce(&mut Value) -> Option<Vec<u8>>>;
    let listed_twice = |header: &mut Value| {
        let name = first(header);
        let entry = json!({ &name: header[&name] }).to_string();
        let whole = header.to_string();
        Some(format!("{},{}", entry.strip_suffix('}').unwrap(), &whole[1..]).into_bytes())
    };
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
    let cases: [(Change, &str); 7] = [
        (Box::new(set("data_offsets", json!([64, 128]))), "offset"),
        (
            Box::new(set("data_offsets", json!([1_u64 << 40, (1_u64 << 40) + 64]))),
            "offset",
        ),
        (Box::new(set("data_offsets", json!([128, 0]))), "offset"),
        (Box::new(set("dtype", json!("F7"))), "F7"),
        (Box::new(listed_twice), "listed twice"),
        (Box::new(|_: &mut Value| Some(b"{\"\xff\xfe\":{}}".to_vec())), "unicode"),
        (Box::new(move |_: &mut Value| Some(deep)), "recursion"),
    ];
    for (change, problem) in cases {
        let model = model();
        edit_header(model.path(), change);
        assert_refused(&worker(model.path()).await, &["model.safetensors", problem, "again"]);
    }
}

#[tokio::test]
async fn weights_that_config_json_does_not_describe_are_refused_by_tensor() {
    let wider = model();
    edit_config(wider.path(), |config| config["intermediate_size"] = json!(192));
    assert_refused(&worker(wider.path()).await, &["mlp", "[128, 64]", "[192, 64]"]);
    let deeper = model();
    edit_config(deeper.path(), |config| config["num_hidden_layers"] = json!(3));
    assert_refused(&worker(deeper.path()).await, &["model.layers.2.", "missing"]);
}

#[tokio::test]
async fn configurations_that_cannot_be_honoured_are_refused_by_field() {
    type Change = fn(&mut Value);
    let cases: [(Change, &[&str]); 6] = [
        (
            |config| config["architectures"] = json!(["MambaForCausalLM"]),
            &["architectures", "MambaForCausalLM"],
        ),
        (|config| config["architectures"] = json!([]), &["architectures"]),
        (
            |config| config["hidden_act"] = json!("gelu"),
            &["hidden_act", "gelu", "silu"],
        ),
        (
            |config| config["num_hidden_layers"] = json!("two"),
            &["num_hidden_layers", "two", "whole number"],
        ),
        (
            |config| config["num_attention_heads"] = json!(0),
            &["num_attention_heads"],
        ),
        (
            |config| config["rope_parameters"]["rope_type"] = json!("spiral"),
            &["rope", "spiral"],
        ),
    ];
    for (change, parts) in cases {
        let model = model();
        edit_config(model.path(), change);
        let ran = worker(model.path()).await;
        assert_refused(&ran, &["config.json"]);
        assert_refused(&ran, parts);
    }
    let garbled = model();
    std::fs::write(garbled.path().join("config.json"), "{\"architectures\": [").unwrap();
    assert_refused(&worker(garbled.path()).await, &["config.json", "JSON"]);
}

#[tokio::test]
async fn a_router_tells_why_its_model_cannot_be_loaded() {
    let model = model();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(real_model("SmolLM2-135M-Instruct").join(file), model.path().join(file)).unwrap();
    }
    edit_config(model.path(), |config| config["hidden_act"] = json!("gelu"));
    let service = Service::of(model.path(), 1).start_without_waiting().await;
    let message = eventually("the model's failure", || async {
        let models = service
            .models()
            .list_models(ListModelsRequest {})
            .await
            .unwrap()
            .into_inner()
            .models;
        (models[0].state() == ModelState::Failed).then(|| models[0].message.clone())
    })
    .await;
    assert!(message.contains("hidden_act") && message.contains("gelu"), "{message}");
    assert_eq!(service.get("/readyz").await.0, 503);
    assert_eq!(service.get("/healthz").await.0, 200);
    // At once: queue.max_wait is a minute.
    let status = generate(&service, prompt("Hello", greedy(1))).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "MODEL_LOAD_FAILED");
    assert!(status.message().contains("config.json"), "{status:?}");
}
