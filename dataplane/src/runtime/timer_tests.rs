//! Tests of the timer wheel against a sorted list.
