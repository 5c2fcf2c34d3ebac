//! Device status: what the 12-byte response's `error` field says. The one table (design §3).
//!
//! Status 0 means that the link worked; a blob-level failure is an HTTP status in the response buffer.

/// Done; the response buffer holds an HTTP response.
pub const OK: u32 = 0;
/// The deadline passed (`WAIT_TIMEOUT`); the outcome of a write is unknown.
pub const DEADLINE: u32 = 0x8007_0102;
/// The request is malformed (`ERROR_INVALID_PARAMETER`); nothing was executed.
pub const MALFORMED: u32 = 0x8007_0057;
/// Policy refuses the request (`ERROR_ACCESS_DENIED`); nothing was executed.
pub const DENIED: u32 = 0x8007_0005;
/// The response buffer is too small (`ERROR_INSUFFICIENT_BUFFER`); `response_len` says the bytes needed, nothing was executed.
pub const INSUFFICIENT_BUFFER: u32 = 0x8007_007A;
/// The request was cancelled (`ERROR_OPERATION_ABORTED`); nothing was executed.
pub const CANCELLED: u32 = 0x8007_03E3;
/// The operation type is unknown (`ERROR_NOT_SUPPORTED`); nothing was executed.
pub const UNKNOWN_OPERATION: u32 = 0x8007_0032;
/// Credits or quota are spent (`ERROR_NO_SYSTEM_RESOURCES`); nothing was executed.
pub const QUOTA: u32 = 0x8007_05AA;
/// The host failed (`ERROR_GEN_FAILURE`); the outcome of a write is unknown.
pub const INTERNAL: u32 = 0x8007_001F;

/// Every status this device gives, by its name in this module.
pub const TABLE: [(&str, u32); 9] = [
    ("OK", OK),
    ("DEADLINE", DEADLINE),
    ("MALFORMED", MALFORMED),
    ("DENIED", DENIED),
    ("INSUFFICIENT_BUFFER", INSUFFICIENT_BUFFER),
    ("CANCELLED", CANCELLED),
    ("UNKNOWN_OPERATION", UNKNOWN_OPERATION),
    ("QUOTA", QUOTA),
    ("INTERNAL", INTERNAL),
];
