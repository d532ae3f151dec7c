// SPDX-License-Identifier: EUPL-1.2

use serde_json::json;

use super::*;

fn config(fields: Value) -> Config {
    let Value::Object(fields) = fields else { panic!("not an object: {fields}") };
    Config { file: "m/config.json".into(), path: String::new(), fields }
}

fn refused<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn fields_and_defaults_good() {
    let config = config(json!({"a": 3, "b": 2.5, "c": true, "d": "silu", "e": null}));
    assert_eq!(config.size("a", 9).unwrap(), 3);
    assert_eq!(config.number("a", 9.0).unwrap(), 3.0);
    assert_eq!(config.number("b", 9.0).unwrap(), 2.5);
    assert!(config.flag("c", false).unwrap());
    assert_eq!(config.bias("c").unwrap(), Bias::Present);
    assert_eq!(config.activation("d", Activation::Gelu).unwrap(), Activation::Silu);
    for absent in ["e", "f"] {
        assert_eq!(config.size(absent, 9).unwrap(), 9);
        assert_eq!(config.number(absent, 9.0).unwrap(), 9.0);
        assert_eq!(config.text(absent).unwrap(), None);
        assert_eq!(config.bias(absent).unwrap(), Bias::Absent);
        assert_eq!(config.activation(absent, Activation::Gelu).unwrap(), Activation::Gelu);
        assert!(config.object(absent).unwrap().is_none());
        assert!(!config.has(absent));
    }
}

#[test]
fn null_is_none_where_the_reader_says_ugly() {
    let config = config(json!({"e": null}));
    assert_eq!(config.number_or_null("e", Some(50.0)).unwrap(), None);
    assert_eq!(config.number_or_null("f", Some(50.0)).unwrap(), Some(50.0));
    assert_eq!(config.size_or_null("e", 4096).unwrap(), None);
    assert_eq!(config.size_or_null("f", 4096).unwrap(), Some(4096));
}

#[test]
fn wrong_types_bad() {
    let config = config(json!({"a": "3", "b": 1.5, "c": -1, "d": [1], "e": 1e60}));
    let whole = "expected a whole number from 1 to 2147483647";
    assert_eq!(refused(config.size("a", 1)), format!("m/config.json: a: {whole}, found \"3\""));
    assert_eq!(refused(config.size("b", 1)), format!("m/config.json: b: {whole}, found 1.5"));
    assert_eq!(refused(config.number("c", 1.0)), "m/config.json: c: expected a number above 0, found -1");
    assert_eq!(refused(config.number("e", 1.0)), "m/config.json: e: expected a number above 0, found 1e+60");
    assert_eq!(refused(config.text("d")), "m/config.json: d: expected a text, found [1]");
    assert_eq!(refused(config.object("d")), "m/config.json: d: expected an object, found [1]");
    assert_eq!(refused(config.flag("a", true)), "m/config.json: a: expected true or false, found \"3\"");
}

#[test]
fn path_of_a_nested_field_bad() {
    let config = config(json!({"outer": {"inner": {"a": 0}}}));
    let inner = config.object("outer").unwrap().unwrap().object("inner").unwrap().unwrap();
    let error = refused(inner.size("a", 1));
    assert_eq!(error, "m/config.json: outer.inner.a: expected a whole number from 1 to 2147483647, found 0");
}

#[test]
fn long_values_are_cut_ugly() {
    let config = config(json!({"a": "é".repeat(1000)}));
    let error = refused(config.size("a", 1));
    assert!(error.ends_with("ééé…") && error.chars().count() < 200, "{error}");
}

#[test]
fn head_dim_good() {
    assert_eq!(config(json!({})).head_dim(48, 4).unwrap(), 12);
    assert_eq!(config(json!({"head_dim": 16})).head_dim(48, 4).unwrap(), 16);
    assert!(config(json!({})).head_dim(48, 7).is_err());
}

#[test]
fn layer_types_good() {
    use LayerType::{FullAttention as Full, SlidingAttention as Sliding};
    let listed = config(json!({"layer_types": ["sliding_attention", "full_attention"]}));
    assert_eq!(listed.layer_types(2, |_| false).unwrap(), [Sliding, Full]);
    assert_eq!(config(json!({})).layer_types(3, |layer| layer == 1).unwrap(), [Full, Sliding, Full]);
}

#[test]
fn layer_types_bad() {
    for wrong in [json!(["full_attention"]), json!(["full_attention", "chunked_attention"]), json!([1, 2]), json!("x")]
    {
        let error = refused(config(json!({"layer_types": wrong})).layer_types(2, |_| false));
        assert!(error.contains("for each of 2 layers"), "{error}");
    }
}
