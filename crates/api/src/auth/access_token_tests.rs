//! Tokens that must be refused, each wrong in one way.

#![allow(clippy::unwrap_used)]

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

fn claims() -> Value {
    let now = jsonwebtoken::get_current_timestamp();
    json!({
        "sub": UserId::new(), "org": OrganizationId::new(), "exp": now + 60, "iat": now,
        "iss": ISSUER, "aud": AUDIENCE,
    })
}

fn sign(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key.pkcs8).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes())))
}

#[test]
fn an_issued_token_is_accepted() {
    let key = SigningKey::generate().unwrap();
    let key = SigningKey::from_pem(&key.to_pem()).unwrap();
    let tokens = AccessTokens::new(&key, Duration::from_secs(60));
    let (user, organization) = (UserId::new(), OrganizationId::new());
    let claims = tokens.verify(&tokens.issue(user, organization).unwrap()).unwrap();
    assert_eq!((claims.sub, claims.org), (user, organization));
}

#[test]
fn whatever_differs_is_refused() {
    let key = SigningKey::generate().unwrap();
    let tokens = AccessTokens::new(&key, Duration::from_secs(60));
    let header = json!({"alg": "EdDSA", "typ": "at+jwt"});
    assert!(tokens.verify(&sign(&key, &header, &claims())).is_ok());

    let past = jsonwebtoken::get_current_timestamp() - 60;
    let changes: [(&str, Value); 14] = [
        ("exp", json!(past)),
        ("exp", json!("tomorrow")),
        ("exp", json!(null)),
        ("exp", Value::Array(vec![])),
        ("iss", json!("somebody")),
        ("iss", json!(null)),
        ("aud", json!("another-api")),
        ("aud", json!(null)),
        ("sub", json!(null)),
        ("sub", json!("user_1")),
        ("sub", json!(OrganizationId::new())),
        ("org", json!(null)),
        ("org", json!(7)),
        ("org", json!(UserId::new())),
    ];
    for (claim, value) in changes {
        let mut changed = claims();
        changed[claim] = value.clone();
        assert!(
            tokens.verify(&sign(&key, &header, &changed)).is_err(),
            "{claim} = {value}"
        );
    }
    for claim in ["exp", "iss", "aud", "sub", "org"] {
        let mut without = claims();
        without.as_object_mut().unwrap().remove(claim);
        assert!(
            tokens.verify(&sign(&key, &header, &without)).is_err(),
            "without {claim}"
        );
    }
    for wrong in [
        json!({"alg": "EdDSA", "typ": "JWT"}),
        json!({"alg": "EdDSA"}),
        json!({"alg": "none", "typ": "at+jwt"}),
        json!({"alg": "HS256", "typ": "at+jwt"}),
        json!({"alg": "RS256", "typ": "at+jwt"}),
        json!({"alg": "ES256", "typ": "at+jwt"}),
    ] {
        assert!(tokens.verify(&sign(&key, &wrong, &claims())).is_err(), "{wrong}");
    }
}

#[test]
fn other_keys_and_damaged_texts_are_refused() {
    let key = SigningKey::generate().unwrap();
    let tokens = AccessTokens::new(&key, Duration::from_secs(60));
    let header = json!({"alg": "EdDSA", "typ": "at+jwt"});
    let good = sign(&key, &header, &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    let hmac = jsonwebtoken::encode(
        &Header {
            typ: Some(TOKEN_TYPE.to_owned()),
            ..Header::new(Algorithm::HS256)
        },
        &claims(),
        &EncodingKey::from_secret(&key.public),
    );
    let table = [
        sign(&SigningKey::generate().unwrap(), &header, &claims()),
        unsigned,
        hmac.unwrap(),
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        format!("{good}x"),
        format!(
            "{}.{}.{}",
            parts[0],
            URL_SAFE_NO_PAD.encode(claims().to_string()),
            parts[2]
        ),
    ];
    for wrong in table {
        assert!(tokens.verify(&wrong).is_err(), "{wrong}");
    }
}
