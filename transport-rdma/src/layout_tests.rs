//! The declarations of `sys` against the C headers: sizes, offsets and constants, as a program that
//! the C compiler makes prints them.
//!
//! `RINGLANE_VERBS_INCLUDE` names the directory that holds `infiniband/verbs.h`; `scripts/verbs.sh`
//! sets it after fetching libibverbs-dev, and the stage `rdma` runs it so. Without it the headers of the
//! host are taken; where there are none or no C compiler, the test says so and compares the known
//! sizes only.

use super::*;
use core::mem::{offset_of, size_of};
use std::fmt::Write as _;
use std::process::Command;

/// One line of what both sides say: a C expression and the value here.
type Fact = (String, u64);

/// Collects `sizeof` of whole structures, and where their members lie.
macro_rules! facts {
    ($facts:ident, $($rust:ident = $c:literal $($whole:ident)? { $($member:ident $(= $cname:literal)?),* };)*) => {
        $(
            $(stringify!($whole); $facts.push((format!("sizeof({})", $c), size_of::<$rust>() as u64));)?
            $(
                let name = [stringify!($member), $($cname)?].last().copied().unwrap_or_default();
                let expression = format!("offsetof({}, {name})", $c);
                $facts.push((expression, offset_of!($rust, $member) as u64));
            )*
        )*
    };
}

fn layout() -> Vec<Fact> {
    let mut facts = Vec::new();
    facts! { facts,
        IbvDevice = "struct ibv_device" { name };
        IbvContextOps = "struct ibv_context_ops" whole { poll_cq, req_notify_cq, post_send, post_recv };
        IbvContext = "struct ibv_context" { ops, async_fd };
        IbvMr = "struct ibv_mr" whole { lkey, rkey };
        IbvCompChannel = "struct ibv_comp_channel" { fd };
        IbvQp = "struct ibv_qp" { context, qp_num };
        IbvPortAttr = "struct ibv_port_attr" whole { state, active_mtu, sm_lid, port_cap_flags2 };
        IbvQpCap = "struct ibv_qp_cap" whole {
            max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data };
        IbvQpInitAttr = "struct ibv_qp_init_attr" whole {
            qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all };
        IbvGlobalRoute = "struct ibv_global_route" whole {
            dgid, flow_label, sgid_index, hop_limit, traffic_class };
        IbvAhAttr = "struct ibv_ah_attr" whole {
            grh, dlid, sl, src_path_bits, static_rate, is_global, port_num };
        IbvQpAttr = "struct ibv_qp_attr" whole {
            qp_state, cur_qp_state, path_mtu, path_mig_state, qkey, rq_psn, sq_psn, dest_qp_num,
            qp_access_flags, cap, ah_attr, alt_ah_attr, pkey_index, alt_pkey_index,
            en_sqd_async_notify, sq_draining, max_rd_atomic, max_dest_rd_atomic, min_rnr_timer,
            port_num, timeout, retry_cnt, rnr_retry, alt_port_num, alt_timeout, rate_limit };
        IbvSge = "struct ibv_sge" whole { addr, length, lkey };
        IbvSendWr = "struct ibv_send_wr" whole {
            wr_id, next, sg_list, num_sge, opcode, send_flags, imm_data,
            remote_addr = "wr.rdma.remote_addr", rkey = "wr.rdma.rkey" };
        IbvRecvWr = "struct ibv_recv_wr" whole { wr_id, next, sg_list, num_sge };
        IbvWc = "struct ibv_wc" whole {
            wr_id, status, opcode, vendor_err, byte_len, imm_data, qp_num, src_qp, wc_flags,
            pkey_index, slid, sl, dlid_path_bits };
        IbvAsyncEvent = "struct ibv_async_event" whole { event_type };
    }
    facts
}

fn constants() -> Vec<Fact> {
    macro_rules! named {
        ($($name:ident),*) => {
            vec![$((concat!("IBV_", stringify!($name)).to_owned(), $name as u64)),*]
        };
    }
    named![
        PORT_ACTIVE,
        ACCESS_LOCAL_WRITE,
        ACCESS_REMOTE_WRITE,
        QPT_RC,
        QPS_RESET,
        QPS_INIT,
        QPS_RTR,
        QPS_RTS,
        QPS_ERR,
        QP_STATE,
        QP_ACCESS_FLAGS,
        QP_PKEY_INDEX,
        QP_PORT,
        QP_AV,
        QP_PATH_MTU,
        QP_TIMEOUT,
        QP_RETRY_CNT,
        QP_RNR_RETRY,
        QP_RQ_PSN,
        QP_MAX_QP_RD_ATOMIC,
        QP_MIN_RNR_TIMER,
        QP_SQ_PSN,
        QP_MAX_DEST_RD_ATOMIC,
        QP_DEST_QPN,
        WR_RDMA_WRITE_WITH_IMM,
        SEND_SIGNALED,
        SEND_INLINE,
        WC_RECV_RDMA_WITH_IMM,
        WC_RDMA_WRITE,
        WC_WITH_IMM
    ]
}

/// What `error.rs` says by number.
fn numbers() -> Vec<Fact> {
    let named = [
        ("IBV_WC_WR_FLUSH_ERR", 5),
        ("IBV_WC_REM_INV_REQ_ERR", 9),
        ("IBV_WC_REM_ACCESS_ERR", 10),
        ("IBV_WC_REM_OP_ERR", 11),
        ("IBV_WC_RETRY_EXC_ERR", 12),
        ("IBV_WC_RNR_RETRY_EXC_ERR", 13),
        ("IBV_WC_TM_RNDV_INCOMPLETE", 23),
        ("IBV_EVENT_CQ_ERR", 0),
        ("IBV_EVENT_QP_ACCESS_ERR", 3),
        ("IBV_EVENT_DEVICE_FATAL", 8),
        ("IBV_EVENT_PORT_ERR", 10),
        ("IBV_EVENT_GID_CHANGE", 18),
    ];
    named.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn facts() -> Vec<Fact> {
    [layout(), constants(), numbers()].concat()
}

/// What the C compiler says of the same expressions; `None` if it or the headers are missing.
fn c_values(facts: &[Fact]) -> Option<Vec<u64>> {
    let include = std::env::var("RINGLANE_VERBS_INCLUDE").unwrap_or("/usr/include".to_owned());
    if !std::path::Path::new(&include).join("infiniband/verbs.h").exists() {
        return None;
    }
    let mut source = "#include <infiniband/verbs.h>\n#include <stddef.h>\n#include <stdio.h>\n\
        int main(void) {\n"
        .to_owned();
    for (expression, _) in facts {
        writeln!(source, "printf(\"%llu\\n\", (unsigned long long)({expression}));").ok()?;
    }
    source.push_str("return 0; }\n");
    let directory = std::env::temp_dir().join(format!("verbs-layout-{}", std::process::id()));
    std::fs::create_dir_all(&directory).ok()?;
    let (file, program) = (directory.join("layout.c"), directory.join("layout"));
    std::fs::write(&file, source).ok()?;
    let mut compiler = Command::new("cc");
    compiler.arg("-I").arg(include).arg(&file).arg("-o").arg(&program);
    let status = compiler.status().ok()?;
    assert!(status.success(), "the C compiler refuses an expression");
    let output = Command::new(&program).output().ok()?;
    let _ = std::fs::remove_dir_all(&directory);
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().map(|line| line.parse().unwrap_or(u64::MAX)).collect())
}

#[test]
fn the_declarations_are_those_of_the_c_header() {
    let facts = facts();
    let Some(values) = c_values(&facts) else {
        assert!(
            std::env::var_os("RINGLANE_VERBS_INCLUDE").is_none(),
            "RINGLANE_VERBS_INCLUDE is set, and there is no verbs.h or no C compiler"
        );
        return;
    };
    assert_eq!(values.len(), facts.len());
    for ((expression, here), there) in facts.iter().zip(values) {
        assert_eq!(*here, there, "{expression}");
    }
}

#[cfg(target_pointer_width = "64")]
#[test]
fn the_sizes_are_those_of_64_bit_hosts() {
    let sizes = [
        (size_of::<IbvSendWr>(), 128),
        (size_of::<IbvRecvWr>(), 32),
        (size_of::<IbvWc>(), 48),
        (size_of::<IbvQpAttr>(), 144),
        (size_of::<IbvAhAttr>(), 32),
        (size_of::<IbvGlobalRoute>(), 24),
        (size_of::<IbvAsyncEvent>(), 16),
        (offset_of!(IbvWc, imm_data), 24),
        (offset_of!(IbvSendWr, remote_addr), 40),
    ];
    for (here, there) in sizes {
        assert_eq!(here, there);
    }
}
