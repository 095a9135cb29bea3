//! Rows that a bench begins with.

use serde_json::json;
use tunesmith_store::{
    Store, accounts,
    base_models::{self, BaseModelDetails, NewBaseModel},
    datasets::{self, NewDataset, Validation},
    files::StoredFile,
};
use tunesmith_types::ids::{BaseModelId, DatasetId, OrganizationId};

use crate::bench::{digest, name};

pub(crate) async fn sign_up(store: &Store, email: &str) -> OrganizationId {
    let new = accounts::NewAccount {
        email,
        password_hash: "$argon2id$",
        organization_name: "Ada's",
    };
    accounts::sign_up(store, &new).await.unwrap().1.id
}

pub(crate) async fn base_model(store: &Store, owner: OrganizationId) -> BaseModelId {
    let id = BaseModelId::new();
    let new = NewBaseModel {
        id,
        owner: Some(owner),
        name: &name("primer"),
        created_by: None,
    };
    base_models::create(store, &new).await.unwrap();
    let file = StoredFile {
        name: "config.json".to_owned(),
        key: "x".to_owned(),
        sha256: "0".repeat(64),
        bytes: 1,
    };
    let details = BaseModelDetails {
        config: json!({}),
        digest: digest(b"base"),
        tokenizer_digest: digest(b"tokenizer"),
        template_digest: None,
        files: vec![file],
        parameters: 1,
        max_seq_len: 512,
    };
    base_models::complete(store, Some(owner), id, &details)
        .await
        .unwrap();
    id
}

pub(crate) async fn dataset(store: &Store, organization: OrganizationId) -> DatasetId {
    let id = DatasetId::new();
    let new = NewDataset {
        id,
        name: &name("data"),
        sha256: &digest(b"data"),
        bytes: 1,
        blob_key: "x",
        created_by: None,
    };
    datasets::create(store, organization, &new).await.unwrap();
    let validation = Validation {
        valid: true,
        examples: 1,
        report: &json!({"errors": []}),
    };
    datasets::finish_validation(store, organization, id, &validation)
        .await
        .unwrap();
    id
}
