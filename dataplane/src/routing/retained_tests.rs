//! Tests of the retained store against a plain map.
