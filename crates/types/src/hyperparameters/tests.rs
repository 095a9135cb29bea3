#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn resolve(request: &Value) -> Result<Hyperparameters, crate::error::ParameterError> {
    let request: HyperparametersRequest = serde_json::from_value(request.clone()).unwrap();
    request.resolve(Some(1024))
}

/// Each request is refused, at the field and with the words.
fn refused(table: &[(Value, &str, &str)]) {
    for (request, field, words) in table {
        let error = resolve(request).unwrap_err();
        assert_eq!(error.param, *field, "{request}: {error}");
        assert!(error.message.contains(words), "{request}: {error}");
    }
}

#[test]
fn an_empty_request_takes_the_defaults() {
    let resolved = resolve(&json!({})).unwrap();
    let wanted = json!({
        "rank": 16, "alpha": 32.0, "dropout": 0.0, "use_rslora": false, "target_modules": "all-linear",
        "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": null, "loraplus_lr_ratio": 1.0,
        "learning_rate": 2e-4, "schedule": "cosine", "decay_ratio": 0.1, "warmup_ratio": 0.03, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "epochs": 3, "batch_size": 16, "max_seq_len": 1024, "over_long": "truncate",
        "train_on_inputs": false, "eval_fraction": 0.05, "eval_every": null, "early_stopping_patience": null,
        "early_stopping_threshold": 0.0, "load_best_model_at_end": false, "checkpoint_every": 50, "dtype": "auto",
        "seed": 0,
    });
    assert_eq!(serde_json::to_value(&resolved).unwrap(), wanted);
}

#[test]
fn every_value_is_kept_and_survives_json() {
    let asked = json!({
        "rank": 8, "alpha": 12.0, "dropout": 0.1, "use_rslora": true, "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"q_proj": 32}, "alpha_pattern": {"layers.0.self_attn.v_proj": 4.0},
        "layers_to_transform": [0, 1], "loraplus_lr_ratio": 16.0, "learning_rate": 1e-3,
        "schedule": "warmup_stable_decay", "decay_ratio": 0.5, "warmup_ratio": 0.5, "weight_decay": 0.01,
        "max_grad_norm": 0.3, "max_steps": 20, "batch_tokens": 4096, "max_seq_len": 512, "over_long": "drop",
        "train_on_inputs": true, "eval_fraction": 0.2, "eval_every": 5, "early_stopping_patience": 3,
        "early_stopping_threshold": 0.01, "load_best_model_at_end": true, "checkpoint_every": 0, "dtype": "float32",
        "seed": 7,
    });
    let resolved = resolve(&asked).unwrap();
    let echoed = serde_json::to_value(&resolved).unwrap();
    assert_eq!(echoed, asked);
    assert_eq!(
        serde_json::from_value::<Hyperparameters>(echoed).unwrap(),
        resolved
    );
}

#[test]
fn jobs_from_before_the_new_fields_can_be_read() {
    let mut stored = serde_json::to_value(resolve(&json!({})).unwrap()).unwrap();
    for field in [
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "loraplus_lr_ratio",
        "decay_ratio",
        "train_on_inputs",
        "early_stopping_patience",
        "early_stopping_threshold",
        "load_best_model_at_end",
    ] {
        stored.as_object_mut().unwrap().remove(field).unwrap();
    }
    let read: Hyperparameters = serde_json::from_value(stored).unwrap();
    assert_eq!(read, resolve(&json!({})).unwrap());
}

#[test]
fn bounds_hold_at_both_ends() {
    let table = [
        ("rank", json!(1), json!(256), json!(0), json!(257)),
        ("alpha", json!(0.001), json!(4096), json!(0), json!(4097)),
        ("dropout", json!(0), json!(0.9), json!(-0.1), json!(0.91)),
        ("learning_rate", json!(1e-8), json!(0.1), json!(0), json!(0.2)),
        (
            "loraplus_lr_ratio",
            json!(1),
            json!(1024),
            json!(0.5),
            json!(1025),
        ),
        ("warmup_ratio", json!(0), json!(1), json!(-0.1), json!(1.1)),
        ("weight_decay", json!(0), json!(1), json!(-1), json!(2)),
        ("max_grad_norm", json!(0), json!(1e6), json!(-1), json!(1e7)),
        ("epochs", json!(1), json!(50), json!(0), json!(51)),
        (
            "max_steps",
            json!(1),
            json!(1_000_000),
            json!(0),
            json!(1_000_001),
        ),
        ("batch_size", json!(1), json!(1024), json!(0), json!(1025)),
        (
            "batch_tokens",
            json!(64),
            json!(4_194_304),
            json!(63),
            json!(4_194_305),
        ),
        ("max_seq_len", json!(8), json!(1024), json!(7), json!(1025)),
        ("eval_fraction", json!(0), json!(0.5), json!(-0.1), json!(0.6)),
        (
            "eval_every",
            json!(0),
            json!(1_000_000),
            json!(1_000_001),
            json!(2_000_000),
        ),
        (
            "checkpoint_every",
            json!(0),
            json!(1_000_000),
            json!(1_000_001),
            json!(2_000_000),
        ),
        (
            "early_stopping_patience",
            json!(1),
            json!(1000),
            json!(0),
            json!(1001),
        ),
        (
            "layers_to_transform",
            json!([0]),
            json!([3, 1023]),
            json!([]),
            json!([1024]),
        ),
    ];
    for (field, least, most, below, above) in table {
        for value in [least, most] {
            assert!(resolve(&json!({ field: value })).is_ok(), "{field} = {value}");
        }
        for value in [below, above] {
            let error = resolve(&json!({ field: value })).unwrap_err();
            assert_eq!(error.param, field, "{value}");
            assert!(error.message.contains(field), "{error}");
        }
    }
    let lost = HyperparametersRequest {
        learning_rate: Some(f64::NAN),
        ..Default::default()
    };
    assert_eq!(lost.resolve(None).unwrap_err().param, "learning_rate");
}

#[test]
fn bounds_that_hold_only_with_another_field() {
    let decay =
        |value: f64| json!({"schedule": "warmup_stable_decay", "warmup_ratio": 0, "decay_ratio": value});
    let threshold = |value: f64| json!({"early_stopping_patience": 1, "early_stopping_threshold": value});
    for good in [decay(0.0), decay(1.0), threshold(0.0), threshold(100.0)] {
        assert!(resolve(&good).is_ok(), "{good}");
    }
    refused(&[
        (decay(1.5), "decay_ratio", "from 0 to 1; 1.5 was given"),
        (decay(-0.5), "decay_ratio", "from 0 to 1"),
        (threshold(-1.0), "early_stopping_threshold", "from 0 to 100"),
        (threshold(101.0), "early_stopping_threshold", "from 0 to 100"),
    ]);
}

#[test]
fn contradictions_are_refused() {
    refused(&[
        (json!({"epochs": 1, "max_steps": 1}), "max_steps", "not both"),
        (
            json!({"batch_size": 1, "batch_tokens": 64}),
            "batch_tokens",
            "not both",
        ),
        (
            json!({"decay_ratio": 0.2}),
            "decay_ratio",
            "only for the schedule `warmup_stable_decay`",
        ),
        (
            json!({"schedule": "warmup_stable_decay", "warmup_ratio": 0.95}),
            "decay_ratio",
            "they are 0.95 and 0.1",
        ),
        (
            json!({"early_stopping_threshold": 0.1}),
            "early_stopping_threshold",
            "give both or neither",
        ),
        (
            json!({"early_stopping_patience": 2, "eval_fraction": 0}),
            "early_stopping_patience",
            "needs evaluation data",
        ),
        (
            json!({"early_stopping_patience": 2, "eval_every": 0}),
            "early_stopping_patience",
            "`eval_every` is 0",
        ),
        (
            json!({"load_best_model_at_end": true, "eval_fraction": 0}),
            "load_best_model_at_end",
            "needs evaluation data",
        ),
        (
            json!({"layers_to_transform": [0], "target_modules": ".*q_proj"}),
            "layers_to_transform",
            "regular expression",
        ),
        (
            json!({"max_seq_len": 2048}),
            "max_seq_len",
            "the base model's limit",
        ),
    ]);
    let shares = json!({"schedule": "warmup_stable_decay", "warmup_ratio": 0.9, "decay_ratio": 0.1});
    assert!(resolve(&shares).is_ok(), "shares may add up to one");
    let with_file = HyperparametersRequest {
        eval_fraction: Some(0.0),
        early_stopping_patience: Some(2),
        load_best_model_at_end: Some(true),
        ..Default::default()
    };
    assert!(with_file.resolve_with_evaluation_data(None).is_ok());
}

#[test]
fn target_modules_have_three_forms() {
    let form = |value: Value| serde_json::from_value::<TargetModules>(value);
    let names = form(json!(["v_proj", "self_attn.q_proj", "v_proj", "lm_head"])).unwrap();
    assert_eq!(
        names.form(),
        TargetForm::Names(&["lm_head", "self_attn.q_proj", "v_proj"].map(ToOwned::to_owned))
    );
    assert_eq!(
        form(json!(["all-linear"])).unwrap(),
        form(json!("all-linear")).unwrap()
    );
    let pattern = r".*\.[qv]_proj";
    assert_eq!(form(json!(pattern)).unwrap().form(), TargetForm::Pattern(pattern));
    for value in [json!("all-linear"), json!(["q_proj"]), json!(pattern)] {
        assert_eq!(serde_json::to_value(form(value.clone()).unwrap()).unwrap(), value);
    }
    refused(&[
        (json!({"target_modules": []}), "target_modules", "0 names"),
        (
            json!({"target_modules": ["conv1"]}),
            "target_modules",
            "`conv1` is none",
        ),
        (
            json!({"target_modules": ["all-linear", "q_proj"]}),
            "target_modules",
            "stands alone",
        ),
        (
            json!({"target_modules": "("}),
            "target_modules",
            "is not a regular expression",
        ),
        (json!({"target_modules": ""}), "target_modules", "1 to 1000 bytes"),
        (
            json!({"target_modules": "q_proj"}),
            "target_modules",
            "give a list: [\"q_proj\"]",
        ),
    ]);
}

#[test]
fn patterns_are_bounded_maps() {
    refused(&[
        (
            json!({"rank_pattern": {"(": 8}}),
            "rank_pattern",
            "is not a regular expression",
        ),
        (
            json!({"alpha_pattern": {"": 8}}),
            "alpha_pattern",
            "1 to 1000 bytes",
        ),
        (
            json!({"rank_pattern": (0..257).map(|n| (n.to_string(), json!(4))).collect::<serde_json::Map<_, _>>()}),
            "rank_pattern",
            "257 entries",
        ),
    ]);
    for wrong in [
        json!({"rank_pattern": {"q_proj": 0}}),
        json!({"rank_pattern": {"q_proj": 257}}),
        json!({"alpha_pattern": {"q_proj": 0}}),
    ] {
        let error = serde_json::from_value::<HyperparametersRequest>(wrong.clone()).unwrap_err();
        assert!(error.to_string().contains("must be from"), "{wrong}: {error}");
    }
}

#[test]
fn unknown_fields_are_refused() {
    assert!(serde_json::from_str::<HyperparametersRequest>(r#"{"lora_rank": 8}"#).is_err());
}
