//! Tests of the filter tree against matching one filter after the other.
