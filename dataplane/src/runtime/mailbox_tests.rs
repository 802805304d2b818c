//! Tests of the mailbox against a plain queue, alone and with two threads.
