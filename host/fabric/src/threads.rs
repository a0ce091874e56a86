/// An environment variable and its value, to be set before a process has threads: zenoh gets one thread for what comes in, and one
/// for what goes out.
///
/// By default it has six in five runtimes, and a datagram goes through three of them on its way in: one waits for the socket, one
/// takes it from there, one decodes it and calls back. With a round in a fraction of a millisecond, and a thread that computes
/// on the same core, each of these handovers is felt: two hosts of one core each took 27.6 ms for a token of a 1.1B model, and
/// take 23.5. With a single thread for both ways it would be 22.4, but when the queue to some node is full, what comes in would wait for
/// itself to empty it, until zenoh gives up the link. zenoh reads this when its first session is opened, and has no other setting for it.
pub const FEW_THREADS: (&str, &str) = (
    "ZENOH_RUNTIME",
    "(rx: (handover: app), acc: (handover: app), net: (handover: app), app: (worker_threads: 1))",
);
