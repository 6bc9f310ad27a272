package virtiofsd

// clientLine is part of the line that virtiofsd logs when a hypervisor connects,
// unless its log level is below the default: "Client connected, servicing requests",
// main() in src/main.rs, in every version written in Rust. There is no other sign of a
// client, and a client that has lost its virtiofsd must be reported.
const clientLine = "Client connected"
