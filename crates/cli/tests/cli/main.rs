//! The executable as a person meets it: what it says about wrong input, and on which stream.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

/// `tunesmith` with a home of its own and no settings from outside.
fn tunesmith(home: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunesmith"));
    for (name, _) in std::env::vars() {
        if name.starts_with("TUNESMITH_")
            || name.starts_with("S3_")
            || name.starts_with("XDG_")
            || name == "DATABASE_URL"
        {
            command.env_remove(name);
        }
    }
    command
        .env("HOME", home)
        .stdin(std::process::Stdio::null())
        .args(arguments)
        .output()
        .unwrap()
}

/// Exit code and what was said on stderr; stdout must be empty.
fn refused(arguments: &[&str]) -> (i32, String) {
    let home = tempfile::tempdir().unwrap();
    let output = tunesmith(home.path(), arguments);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "",
        "{arguments:?} writes no data"
    );
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn wrong_arguments_are_refused_with_the_word_that_is_wrong() {
    let table: &[(&[&str], &str)] = &[
        (&[], "Usage: tunesmith"),
        (&["fly"], "unrecognized subcommand 'fly'"),
        (
            &["jobs", "create", "--dataset", "d", "--adapter", "a"],
            "--base <NAME>",
        ),
        (
            &[
                "jobs",
                "create",
                "--base",
                "b",
                "--dataset",
                "d",
                "--adapter",
                "a",
                "--schedule",
                "zigzag",
            ],
            "zigzag",
        ),
        (
            &[
                "jobs",
                "create",
                "--base",
                "b",
                "--dataset",
                "d",
                "--adapter",
                "a",
                "--rank",
                "many",
            ],
            "'many'",
        ),
        (
            &[
                "jobs",
                "create",
                "--base",
                "b",
                "--dataset",
                "d",
                "--adapter",
                "a",
                "--epochs",
                "1",
                "--max-steps",
                "2",
            ],
            "cannot be used with",
        ),
        (&["jobs", "list", "--limit", "101"], "1..=100"),
        (&["evaluate", "--model", "m"], "--example"),
        (&["evaluate", "--model", "m", "--data", "x"], "--metric"),
        (
            &["evaluate", "--model", "m", "--data", "x", "--metric", "taste"],
            "first_line, phrases",
        ),
        (&["up", "--listen", "here"], "'here'"),
        (&["demo", "--all", "--example", "x"], "cannot be used with"),
    ];
    for (arguments, words) in table {
        let (code, said) = refused(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn what_cannot_be_done_says_why_and_how_to_mend_it() {
    let nobody = "http://127.0.0.1:1";
    let table: &[(&[&str], &str)] = &[
        (&["jobs", "list", "--api-url", nobody], "is the platform up?"),
        (
            &["jobs", "show", "../x", "--api-url", nobody],
            "is no name and no id",
        ),
        (
            &["datasets", "upload", "/nowhere.jsonl", "--api-url", nobody],
            "cannot open /nowhere.jsonl",
        ),
        (
            &["base-models", "register", "/", "--api-url", nobody],
            "config.json",
        ),
        (
            &["base-models", "pull", "qwen", "--api-url", nobody],
            "owner/name",
        ),
        (
            &["adapters", "show", "support@X", "--api-url", nobody],
            "support@7",
        ),
        (&["login", "--api-url", nobody], "Email address"),
        (&["chat", "--model", "m", "--api-url", nobody], "-m"),
        (
            &[
                "evaluate",
                "--model",
                "m",
                "--example",
                "/nowhere",
                "--api-url",
                nobody,
            ],
            "/nowhere/task.json",
        ),
        (&["migrate"], "DATABASE_URL is not set"),
        (&["api"], "DATABASE_URL is not set"),
        (&["worker"], "DATABASE_URL is not set"),
        (&["demo", "--examples-dir", "/nowhere"], "task.json"),
    ];
    for (arguments, words) in table {
        let (code, said) = refused(arguments);
        assert_eq!(code, 1, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_damaged_configuration_file_is_named() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/tunesmith");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), "{").unwrap();
    let output = tunesmith(home.path(), &["whoami"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("config.json is damaged"), "{said}");
}

#[test]
fn the_api_document_is_data() {
    let home = tempfile::tempdir().unwrap();
    let output = tunesmith(home.path(), &["openapi"]);
    assert!(output.status.success());
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for path in [
        "/v1/jobs",
        "/v1/datasets",
        "/v1/deployments",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let committed = include_str!("../../../../openapi/openapi.json");
    let committed: serde_json::Value = serde_json::from_str(committed).unwrap();
    assert!(
        document == committed,
        "openapi/openapi.json is stale; run `make openapi`"
    );
}
