//! Adapters that were trained elsewhere, over HTTP.

use serde_json::{Value, json};

use crate::jobs::ready;
use crate::support::{Answer, App, Client, tiny_model};

pub(crate) const PATH: &str = "/v1/adapters/boxes/import?base_model=tiny";
const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const Q_PROJ: &str = "base_model.model.model.layers.0.self_attn.q_proj";
const V_PROJ: &str = "base_model.model.model.layers.0.self_attn.v_proj";

/// A tensor of a file: name, number format, shape, and the bytes of each of its numbers.
type Tensor<'a> = (String, &'a str, Vec<usize>, Vec<u8>);

fn safetensors(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, number) in tensors {
        let begin = data.len();
        data.extend(number.repeat(shape.iter().product()));
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend(data);
    file
}

/// Rank 4 on the queries, rank 2 on the values, in all three number formats; in no order.
fn tensors() -> Vec<Tensor<'static>> {
    let single = f32::to_le_bytes(0.25).to_vec();
    vec![
        (
            format!("{V_PROJ}.lora_B.weight"),
            "F32",
            vec![16, 2],
            single.clone(),
        ),
        (
            format!("{Q_PROJ}.lora_A.weight"),
            "BF16",
            vec![4, 32],
            vec![0x80, 0x3e],
        ),
        (
            format!("{Q_PROJ}.lora_B.weight"),
            "F16",
            vec![32, 4],
            vec![0x00, 0x34],
        ),
        (format!("{V_PROJ}.lora_A.weight"), "F32", vec![2, 32], single),
    ]
}

fn config() -> Value {
    json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "bias": "none", "use_dora": false,
        "target_modules": ["v_proj", "q_proj"], "rank_pattern": {"v_proj": 2}, "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "/home/somebody/model", "modules_to_save": null, "eva_config": null,
    })
}

fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Not `set_path`, which refuses the paths that the API must refuse.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn folder(config: &Value, tensors: &[Tensor<'_>]) -> Vec<u8> {
    archive(&[
        ("./out/adapter_config.json", config.to_string().into_bytes()),
        ("./out/adapter_model.safetensors", safetensors(tensors)),
        ("./out/README.md", b"# mine".to_vec()),
    ])
}

/// A folder that becomes a version.
pub(crate) fn good_folder() -> Vec<u8> {
    folder(&config(), &tensors())
}

/// The archive of a folder on the disk.
pub(crate) fn folder_of(folder: &std::path::Path) -> Vec<u8> {
    archive(&[CONFIG, TENSORS].map(|name| (name, std::fs::read(folder.join(name)).unwrap())))
}

pub(crate) async fn send(client: &Client, path: &str, archive: Vec<u8>) -> Answer {
    let request = client.request("POST", path);
    client
        .send(request.header("content-type", "application/x-tar").body(archive))
        .await
}

#[tokio::test]
async fn a_good_folder_becomes_a_version_that_can_be_deployed() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let imported = send(&client, PATH, folder(&config(), &tensors())).await.ok(201);
    assert_eq!(
        (
            &imported["reference"],
            &imported["job_id"],
            &imported["base_model"]
        ),
        (&json!("boxes@1"), &Value::Null, &json!("tiny"))
    );
    assert_eq!(imported["ignored_files"], json!(["./out/README.md"]));
    let manifest = &imported["manifest"];
    assert_eq!(manifest["source"], "import");
    assert!(manifest["base_digest"].is_string());
    assert_eq!(
        (
            &manifest["hyperparameters"]["rank"],
            &manifest["hyperparameters"]["rank_pattern"]
        ),
        (&json!(4), &json!({"v_proj": 2}))
    );

    let files = client.get("/v1/adapters/boxes/versions/1/files").await.ok(200);
    let mut contents = Vec::new();
    for file in files["data"].as_array().unwrap() {
        let answer = reqwest::get(file["url"].as_str().unwrap()).await.unwrap();
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file["bytes"].as_u64().unwrap());
        contents.push(bytes);
    }
    let written: Value = serde_json::from_slice(&contents[0]).unwrap();
    assert_eq!(
        (
            &written["r"],
            &written["target_modules"],
            &written["base_model_name_or_path"]
        ),
        (&json!(4), &json!(["q_proj", "v_proj"]), &json!("tiny"))
    );
    let length = usize::try_from(u64::from_le_bytes(contents[1][..8].try_into().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&contents[1][8..8 + length]).unwrap();
    assert_eq!(length % 8, 0);
    for (name, _, shape, _) in tensors() {
        assert_eq!(
            (&header[&name]["dtype"], &header[&name]["shape"]),
            (&json!("F32"), &json!(shape))
        );
    }
    let numbers = contents[1][8 + length..].chunks_exact(4);
    assert_eq!(numbers.len(), 4 * 32 * 2 + 2 * 32 + 16 * 2);
    assert!(numbers.into_iter().all(|number| number == f32::to_le_bytes(0.25)));

    // The same adapter, packed otherwise, is the same version; another is the next.
    let again = archive(&[
        (TENSORS, safetensors(&tensors())),
        (CONFIG, config().to_string().into_bytes()),
    ]);
    let again = send(&client, PATH, again).await.ok(200);
    assert_eq!(
        (&again["id"], &again["ignored_files"]),
        (&imported["id"], &json!([]))
    );
    let mut other = config();
    other["lora_alpha"] = json!(16);
    let other = send(&client, PATH, folder(&other, &tensors())).await.ok(201);
    assert_eq!(other["reference"], "boxes@2");

    let desk = json!({"name": "desk", "base_model": "tiny", "adapter": "boxes"});
    client.post("/v1/deployments", &desk).await.ok(201);
    let lineage = client.get("/v1/adapters/boxes/versions/1/lineage").await;
    assert_eq!(lineage.status, 200, "{}", lineage.body);
}

#[tokio::test]
async fn a_folder_that_is_no_plain_adapter_of_the_base_is_refused_with_every_reason() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let changed = |field: &str, value: Value| {
        let mut config = config();
        config[field] = value;
        folder(&config, &tensors())
    };
    let with = |change: &dyn Fn(&mut Vec<Tensor<'static>>)| {
        let mut tensors = tensors();
        change(&mut tensors);
        folder(&config(), &tensors)
    };
    let beside = |name: &'static str| {
        archive(&[
            (CONFIG, config().to_string().into_bytes()),
            (TENSORS, safetensors(&tensors())),
            (name, b"x".to_vec()),
        ])
    };
    let whole = folder(&config(), &tensors());
    let cut = whole[..1500].to_vec();
    let twice = |change: &dyn Fn(&mut Value)| {
        let mut config = config();
        change(&mut config);
        folder(&config, &tensors())
    };
    let table: Vec<(Vec<u8>, &[&str])> = vec![
        (
            Vec::new(),
            &[
                "`adapter_config.json` is missing",
                "`adapter_model.safetensors` is missing",
            ],
        ),
        (vec![7; 2048], &["no whole tar archive"]),
        (cut, &["`adapter_model.safetensors` is missing"]),
        (beside("../escape.txt"), &["leads out"]),
        (beside("/etc/passwd"), &["leads out"]),
        (beside("training_args.bin"), &["`training_args.bin` may run code"]),
        (beside("other/adapter_config.json"), &["there twice"]),
        (changed("use_dora", json!(true)), &["`use_dora`"]),
        (
            changed("use_something_new", json!(true)),
            &["`use_something_new`"],
        ),
        (changed("lora_bias", json!(true)), &["`lora_bias`"]),
        (changed("bias", json!("all")), &["`bias`"]),
        (
            changed("modules_to_save", json!(["lm_head"])),
            &["`modules_to_save`"],
        ),
        (changed("fan_in_fan_out", json!(true)), &["`fan_in_fan_out`"]),
        (
            changed("layer_replication", json!([[0, 1]])),
            &["`layer_replication`"],
        ),
        (
            changed("init_lora_weights", json!("pissa_niter_4")),
            &["`init_lora_weights`"],
        ),
        (
            changed("init_lora_weights", json!("olora")),
            &["`init_lora_weights`"],
        ),
        (changed("peft_type", json!("LOHA")), &["`peft_type`"]),
        (changed("r", json!(0)), &["adapter_config.json"]),
        (changed("target_modules", json!(["qkv_proj"])), &["`qkv_proj`"]),
        (
            changed("alpha_pattern", json!({"[qv]_proj": 4, "(v|z)_proj": 8})),
            &["`(v|z)_proj` and `[qv]_proj` both fit"],
        ),
        (
            changed("alpha_pattern", json!({"v_proj": 4, "self_attn.v_proj": 8})),
            &["adapter_config.json", "alpha_pattern"],
        ),
        (
            changed("rank_pattern", json!({})),
            &["[2, 32]", "[4, 32]", "[16, 4]"],
        ),
        (
            twice(&|config| {
                config["use_dora"] = json!(true);
                config["bias"] = json!("lora_only");
            }),
            &["`use_dora`", "`bias`"],
        ),
        (
            with(&|tensors| drop(tensors.pop())),
            &["v_proj.lora_A.weight` is missing"],
        ),
        (
            with(&|tensors| {
                tensors[0].0 = "lm_head.weight".to_owned();
                tensors[1].3 = vec![0x80, 0x7f];
            }),
            &[
                "v_proj.lora_B.weight` is missing",
                "`lm_head.weight` belongs to no",
                "q_proj.lora_A.weight` holds a number",
            ],
        ),
        (with(&|tensors| tensors[2].3 = vec![0x00, 0x7c]), &["not finite"]),
        (
            with(&|tensors| tensors[3].3 = f32::NAN.to_le_bytes().to_vec()),
            &["not finite"],
        ),
        (
            with(&|tensors| (tensors[2].1, tensors[2].3) = ("I16", vec![0, 0])),
            &["type I16"],
        ),
    ];
    for (number, (archive, reasons)) in table.into_iter().enumerate() {
        let answer = send(&client, PATH, archive).await;
        answer.fails(400, "adapter_refused", None);
        let message = answer.body["error"]["message"].as_str().unwrap();
        for reason in reasons {
            assert!(
                message.contains(reason),
                "{number}: `{reason}` is not in: {message}"
            );
        }
    }
    client
        .get("/v1/adapters/boxes")
        .await
        .fails(404, "adapter_not_found", None);
}

/// The embedding of the base is zeros in bfloat16.
#[tokio::test]
async fn a_copy_of_the_embedding_in_a_wider_type_is_the_embedding() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let with_copy = |number: f32| {
        let mut tensors = tensors();
        let name = "base_model.model.model.embed_tokens.weight".to_owned();
        tensors.push((name, "F32", vec![32, 32], number.to_le_bytes().to_vec()));
        folder(&config(), &tensors)
    };
    let without = send(&client, PATH, folder(&config(), &tensors())).await.ok(201);
    let with = send(&client, PATH, with_copy(0.0)).await.ok(200);
    assert_eq!(with["id"], without["id"]);
    let other = send(&client, PATH, with_copy(f32::MIN_POSITIVE)).await;
    other.fails(400, "adapter_refused", None);
}

#[tokio::test]
async fn links_are_refused_and_times_are_not() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let entry = |kind: tar::EntryType, name: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_path(name).unwrap();
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, content).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(512 + content.len().div_ceil(512) * 512);
        bytes
    };
    let good = folder(&config(), &tensors());
    for (kind, content, refused) in [
        (tar::EntryType::Symlink, &b""[..], true),
        (tar::EntryType::Link, b"", true),
        (tar::EntryType::Fifo, b"", true),
        (tar::EntryType::XHeader, b"12 path=abc\n", true),
        (tar::EntryType::XHeader, b"20 mtime=1700000.25\n", false),
        (tar::EntryType::Directory, b"", false),
    ] {
        let answer = send(
            &client,
            PATH,
            [entry(kind, "first", content), good.clone()].concat(),
        )
        .await;
        if refused {
            answer.fails(400, "adapter_refused", None);
        } else {
            assert!([200, 201].contains(&answer.status), "{kind:?}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn only_a_base_model_that_the_organization_sees_gets_an_adapter() {
    let app = App::start().await;
    let owner = ready(&app, "first").await;
    let other = app.sign_up("second").await;
    let good = good_folder;
    send(&other, PATH, good())
        .await
        .fails(404, "base_model_not_found", Some("base_model"));
    send(&app.anonymous(), PATH, good())
        .await
        .fails(401, "invalid_credentials", None);
    send(&owner, "/v1/adapters/No/import?base_model=tiny", good())
        .await
        .fails(400, "invalid_parameter", Some("name"));
    let form = owner
        .request("POST", PATH)
        .header("content-type", "multipart/form-data; boundary=x");
    owner
        .send(form.body("x"))
        .await
        .fails(415, "unsupported_media_type", None);

    send(&owner, PATH, good()).await.ok(201);
    other
        .get("/v1/adapters/boxes")
        .await
        .fails(404, "adapter_not_found", None);
    // The same bytes are another organization's own version there.
    other.register("tiny", &tiny_model()).await.ok(200);
    let theirs = send(&other, PATH, good()).await.ok(201);
    assert_eq!(theirs["reference"], "boxes@1");
}
