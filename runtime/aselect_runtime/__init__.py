"""Floor 2, the runtime: sessions, engines, video sources and sinks, and the pipeline between them."""
