//! Replies that refuse: one of each code, with the details that it carries.

use skep_protocol::{ErrorCode, ErrorDetails, WireError};

use super::{Sample, error, id};

fn details(code: ErrorCode) -> ErrorDetails {
    let none = ErrorDetails::default;
    let text = |text: &str| Some(text.to_owned());
    match code {
        ErrorCode::UnsupportedVersion => ErrorDetails {
            supported: Some(vec![1]),
            ..none()
        },
        ErrorCode::InvalidArgument | ErrorCode::Denied => ErrorDetails {
            field: text("spec.grants.dirs[0].host"),
            ..none()
        },
        ErrorCode::TooLarge => ErrorDetails {
            limit: text("payload_bytes"),
            ..none()
        },
        ErrorCode::WrongState => ErrorDetails {
            state: text("exited"),
            ..none()
        },
        ErrorCode::MissingGrant => ErrorDetails {
            import: text("wasi:filesystem/preopens@0.2.0"),
            grant: text("dirs"),
            ..none()
        },
        ErrorCode::LimitExceedsCeiling => ErrorDetails {
            limit: text("fuel"),
            asked: Some(u64::MAX),
            ceiling: Some(1_000_000_000_000),
            ..none()
        },
        ErrorCode::LimitTooSmall => ErrorDetails {
            limit: text("memory_bytes"),
            asked: Some(65_536),
            needed: Some(1_114_112),
            ..none()
        },
        ErrorCode::Capacity => ErrorDetails {
            running: Some(1_000),
            max: Some(1_000),
            queued: Some(0),
            ..none()
        },
        ErrorCode::RateLimited => ErrorDetails {
            retry_after_ms: Some(250),
            ..none()
        },
        ErrorCode::UnsupportedWorld => ErrorDetails {
            world: text("wasi:cli/command@0.3.0"),
            ..none()
        },
        ErrorCode::MissingImport => ErrorDetails {
            imports: Some(vec!["acme:db/query@1.0.0".to_owned()]),
            ..none()
        },
        ErrorCode::UnsupportedFeature => ErrorDetails {
            feature: text("agent.pause"),
            ..none()
        },
        ErrorCode::CompileLimit => ErrorDetails {
            limit: text("compile_ms"),
            ..none()
        },
        ErrorCode::Internal => ErrorDetails {
            incident: text("c0ffee"),
            ..none()
        },
        _ => none(),
    }
}

pub(super) fn all() -> Vec<Sample> {
    let mut samples: Vec<_> = ErrorCode::ALL
        .into_iter()
        .map(|code| {
            let message = "what happened, and what to do".to_owned();
            let wire = WireError {
                code,
                message,
                details: details(code),
            };
            error(code.as_str(), Some(id()), wire)
        })
        .collect();
    let message = "the payload is no envelope: it ends in the middle of a value";
    samples.push(error(
        "without-id",
        None,
        WireError::new(ErrorCode::Malformed, message),
    ));
    let field = WireError::of_field(
        ErrorCode::UnsupportedFeature,
        "spec.restart",
        "`spec.restart` is not supported by this build: leave it out",
    );
    samples.push(error("unsupported-field", Some(id()), field));
    samples
}
