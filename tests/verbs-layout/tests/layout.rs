//! The declarations in `transport-rdma/src/sys.rs` beside those of rdma-sys, which come from bindgen:
//! the size of each structure and the place of each member that is used.

#[path = "../../../transport-rdma/src/sys.rs"]
#[allow(dead_code, reason = "only the declarations are looked at here")]
mod sys;

use core::mem::{offset_of, size_of};
use rdma_sys as theirs;

/// One line per structure: ours, theirs, and the members with the names that both have.
macro_rules! same {
    ($($ours:ident = $theirs:ident $($whole:ident)? { $($member:ident $(= $other:ident)?),* };)*) => {
        $(
            $(
                let _ = stringify!($whole);
                assert_eq!(
                    size_of::<sys::$ours>(), size_of::<theirs::$theirs>(), stringify!($theirs)
                );
            )?
            $(same!(@ $ours $theirs $member $($other)?);)*
        )*
    };
    (@ $ours:ident $theirs:ident $member:ident) => { same!(@ $ours $theirs $member $member); };
    (@ $ours:ident $theirs:ident $member:ident $other:ident) => {
        assert_eq!(
            offset_of!(sys::$ours, $member),
            offset_of!(theirs::$theirs, $other),
            concat!(stringify!($theirs), ".", stringify!($other))
        );
    };
}

#[test]
fn sizes_and_places_agree() {
    same! {
        IbvDevice = ibv_device { name };
        IbvContextOps = ibv_context_ops whole { poll_cq, req_notify_cq, post_send, post_recv };
        IbvContext = ibv_context { ops, async_fd };
        IbvMr = ibv_mr whole { lkey, rkey };
        IbvCompChannel = ibv_comp_channel { fd };
        IbvQp = ibv_qp { qp_num };
        IbvPortAttr = ibv_port_attr whole { state, active_mtu };
        IbvQpCap = ibv_qp_cap whole { max_send_wr, max_inline_data };
        IbvQpInitAttr = ibv_qp_init_attr whole { send_cq, recv_cq, srq, cap, qp_type, sq_sig_all };
        IbvGlobalRoute = ibv_global_route whole { dgid, flow_label, sgid_index, traffic_class };
        IbvAhAttr = ibv_ah_attr whole { grh, is_global, port_num };
        IbvQpAttr = ibv_qp_attr whole {
            qp_state, path_mtu, rq_psn, sq_psn, dest_qp_num, qp_access_flags, cap, ah_attr,
            max_rd_atomic, max_dest_rd_atomic, min_rnr_timer, port_num, timeout, retry_cnt, rnr_retry,
            rate_limit };
        IbvSge = ibv_sge whole { addr, length, lkey };
        IbvSendWr = ibv_send_wr whole {
            wr_id, next, sg_list, num_sge, opcode, send_flags, imm_data = imm_data_invalidated_rkey_union,
            remote_addr = wr };
        IbvRecvWr = ibv_recv_wr whole { wr_id, next, sg_list, num_sge };
        IbvWc = ibv_wc whole {
            wr_id, status, opcode, imm_data = imm_data_invalidated_rkey_union, qp_num, wc_flags };
        IbvAsyncEvent = ibv_async_event whole { event_type };
    }
}
