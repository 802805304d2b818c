//! Tests of the remote filters, with hash collisions forced.
