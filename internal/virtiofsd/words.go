package virtiofsd

// clientLine is what virtiofsd logs when a hypervisor has connected, unless its log
// level is lower than its default: "Client connected, servicing requests", main() of
// src/main.rs, in all versions that are written in Rust. There is no other sign of it:
// whether a run served somebody decides how soon the next one starts.
const clientLine = "Client connected"
