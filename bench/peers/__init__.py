"""Other people's engines: whole networks in their formats, and the benchmarks' nets in other frameworks."""
