//! The few declarations of libibverbs that this crate uses, and the library itself, loaded at run
//! time.
//!
//! Written by hand after `infiniband/verbs.h` of rdma-core; the ABI of `libibverbs.so.1` behind the
//! symbol version `IBVERBS_1.1` has been frozen since 2006. `layout_tests.rs` compares every size,
//! offset and constant with the C header. Structures that the library makes are declared up to the
//! last member that is read here, and never made or copied by us.
//!
//! Data goes through function pointers in the context, as the header's inline functions do it:
//! `post_send`, `post_recv`, `poll_cq` and `req_notify_cq` are no symbols of the library.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::mem;
use std::io;
use std::sync::OnceLock;

/// A GID, in network byte order.
pub(crate) type GidBytes = [u8; 16];

/// Bytes of a device name with its zero (`IBV_SYSFS_NAME_MAX`).
const NAME_BYTES: usize = 64;

/// `ibv_device`, up to its name.
#[repr(C)]
pub(crate) struct IbvDevice {
    ops: [*const c_void; 2],
    node_type: c_int,
    transport_type: c_int,
    pub(crate) name: [c_char; NAME_BYTES],
}

/// A member of `ibv_context_ops` that nothing here calls.
type Unused = *const c_void;
/// `poll_cq`: at most that many completions into the array; their count, or below zero.
pub(crate) type PollCq = unsafe extern "C" fn(*mut IbvCq, c_int, *mut IbvWc) -> c_int;
/// `req_notify_cq`: 0 or an error number.
pub(crate) type ReqNotifyCq = unsafe extern "C" fn(*mut IbvCq, c_int) -> c_int;
/// `post_send`: 0 or an error number, and then the first request that was not taken.
pub(crate) type PostSend =
    unsafe extern "C" fn(*mut IbvQp, *mut IbvSendWr, *mut *mut IbvSendWr) -> c_int;
/// `post_recv`, likewise.
pub(crate) type PostRecv =
    unsafe extern "C" fn(*mut IbvQp, *mut IbvRecvWr, *mut *mut IbvRecvWr) -> c_int;

/// `ibv_context_ops`.
#[repr(C)]
pub(crate) struct IbvContextOps {
    unused_0: [Unused; 11],
    pub(crate) poll_cq: PollCq,
    pub(crate) req_notify_cq: ReqNotifyCq,
    unused_1: [Unused; 12],
    pub(crate) post_send: PostSend,
    pub(crate) post_recv: PostRecv,
    unused_2: [Unused; 5],
}

/// `ibv_context`, up to its descriptors.
#[repr(C)]
pub(crate) struct IbvContext {
    device: *mut IbvDevice,
    pub(crate) ops: IbvContextOps,
    cmd_fd: c_int,
    pub(crate) async_fd: c_int,
}

/// `ibv_pd`, of which only the address is used.
#[repr(C)]
pub(crate) struct IbvPd {
    context: *mut IbvContext,
}

/// `ibv_mr`.
#[repr(C)]
pub(crate) struct IbvMr {
    context: *mut IbvContext,
    pd: *mut IbvPd,
    addr: *mut c_void,
    length: usize,
    handle: u32,
    pub(crate) lkey: u32,
    pub(crate) rkey: u32,
}

impl IbvMr {
    /// The local and the remote key.
    pub(crate) fn keys(&self) -> (u32, u32) {
        (self.lkey, self.rkey)
    }
}

/// `ibv_comp_channel`.
#[repr(C)]
pub(crate) struct IbvCompChannel {
    context: *mut IbvContext,
    pub(crate) fd: c_int,
}

/// `ibv_cq`, of which only the address is used.
#[repr(C)]
pub(crate) struct IbvCq {
    context: *mut IbvContext,
}

/// `ibv_qp`, up to its number.
#[repr(C)]
pub(crate) struct IbvQp {
    context: *mut IbvContext,
    qp_context: *mut c_void,
    pd: *mut IbvPd,
    send_cq: *mut IbvCq,
    recv_cq: *mut IbvCq,
    srq: *mut c_void,
    handle: u32,
    pub(crate) qp_num: u32,
}

/// `ibv_port_attr`; the members that nothing here reads are kept as bytes.
#[repr(C)]
#[derive(Default)]
pub(crate) struct IbvPortAttr {
    pub(crate) state: c_int,
    max_mtu: c_int,
    pub(crate) active_mtu: c_int,
    gid_tbl_len: c_int,
    port_cap_flags: u32,
    max_msg_sz: u32,
    bad_pkey_cntr: u32,
    qkey_viol_cntr: u32,
    pkey_tbl_len: u16,
    lid: u16,
    sm_lid: u16,
    bytes: [u8; 10],
    port_cap_flags2: u16,
}

/// `ibv_qp_cap`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct IbvQpCap {
    pub(crate) max_send_wr: u32,
    pub(crate) max_recv_wr: u32,
    pub(crate) max_send_sge: u32,
    pub(crate) max_recv_sge: u32,
    pub(crate) max_inline_data: u32,
}

/// `ibv_qp_init_attr`.
#[repr(C)]
pub(crate) struct IbvQpInitAttr {
    pub(crate) qp_context: *mut c_void,
    pub(crate) send_cq: *mut IbvCq,
    pub(crate) recv_cq: *mut IbvCq,
    pub(crate) srq: *mut c_void,
    pub(crate) cap: IbvQpCap,
    pub(crate) qp_type: c_int,
    pub(crate) sq_sig_all: c_int,
}

/// `ibv_global_route`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct IbvGlobalRoute {
    pub(crate) dgid: GidBytes,
    pub(crate) flow_label: u32,
    pub(crate) sgid_index: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
}

/// `ibv_ah_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct IbvAhAttr {
    pub(crate) grh: IbvGlobalRoute,
    pub(crate) dlid: u16,
    pub(crate) sl: u8,
    pub(crate) src_path_bits: u8,
    pub(crate) static_rate: u8,
    pub(crate) is_global: u8,
    pub(crate) port_num: u8,
}

/// `ibv_qp_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct IbvQpAttr {
    pub(crate) qp_state: c_int,
    pub(crate) cur_qp_state: c_int,
    pub(crate) path_mtu: c_int,
    pub(crate) path_mig_state: c_int,
    pub(crate) qkey: u32,
    pub(crate) rq_psn: u32,
    pub(crate) sq_psn: u32,
    pub(crate) dest_qp_num: u32,
    pub(crate) qp_access_flags: c_uint,
    pub(crate) cap: IbvQpCap,
    pub(crate) ah_attr: IbvAhAttr,
    pub(crate) alt_ah_attr: IbvAhAttr,
    pub(crate) pkey_index: u16,
    pub(crate) alt_pkey_index: u16,
    pub(crate) en_sqd_async_notify: u8,
    pub(crate) sq_draining: u8,
    pub(crate) max_rd_atomic: u8,
    pub(crate) max_dest_rd_atomic: u8,
    pub(crate) min_rnr_timer: u8,
    pub(crate) port_num: u8,
    pub(crate) timeout: u8,
    pub(crate) retry_cnt: u8,
    pub(crate) rnr_retry: u8,
    pub(crate) alt_port_num: u8,
    pub(crate) alt_timeout: u8,
    pub(crate) rate_limit: u32,
}

/// `ibv_sge`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct IbvSge {
    pub(crate) addr: u64,
    pub(crate) length: u32,
    pub(crate) lkey: u32,
}

/// `ibv_send_wr`, with the member `rdma` of its union; the rest of it is zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct IbvSendWr {
    pub(crate) wr_id: u64,
    pub(crate) next: *mut Self,
    pub(crate) sg_list: *mut IbvSge,
    pub(crate) num_sge: c_int,
    pub(crate) opcode: c_int,
    pub(crate) send_flags: c_uint,
    /// In network byte order.
    pub(crate) imm_data: u32,
    pub(crate) remote_addr: u64,
    pub(crate) rkey: u32,
    pub(crate) rest: [u64; 9],
}

/// `ibv_recv_wr`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct IbvRecvWr {
    pub(crate) wr_id: u64,
    pub(crate) next: *mut Self,
    pub(crate) sg_list: *mut IbvSge,
    pub(crate) num_sge: c_int,
}

/// `ibv_wc`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct IbvWc {
    pub(crate) wr_id: u64,
    pub(crate) status: c_int,
    pub(crate) opcode: c_int,
    pub(crate) vendor_err: u32,
    pub(crate) byte_len: u32,
    /// In network byte order.
    pub(crate) imm_data: u32,
    pub(crate) qp_num: u32,
    pub(crate) src_qp: u32,
    pub(crate) wc_flags: c_uint,
    pub(crate) pkey_index: u16,
    pub(crate) slid: u16,
    pub(crate) sl: u8,
    pub(crate) dlid_path_bits: u8,
}

/// `ibv_async_event`.
#[repr(C)]
pub(crate) struct IbvAsyncEvent {
    /// A union of pointers and a port number.
    pub(crate) element: u64,
    pub(crate) event_type: c_int,
}

/// `IBV_PORT_ACTIVE`.
pub(crate) const PORT_ACTIVE: c_int = 4;
/// `IBV_ACCESS_LOCAL_WRITE`.
pub(crate) const ACCESS_LOCAL_WRITE: c_int = 1;
/// `IBV_ACCESS_REMOTE_WRITE`.
pub(crate) const ACCESS_REMOTE_WRITE: c_int = 2;
/// `IBV_QPT_RC`.
pub(crate) const QPT_RC: c_int = 2;
/// `IBV_QPS_RESET`.
pub(crate) const QPS_RESET: c_int = 0;
/// `IBV_QPS_INIT`.
pub(crate) const QPS_INIT: c_int = 1;
/// `IBV_QPS_RTR`.
pub(crate) const QPS_RTR: c_int = 2;
/// `IBV_QPS_RTS`.
pub(crate) const QPS_RTS: c_int = 3;
/// `IBV_QPS_ERR`.
pub(crate) const QPS_ERR: c_int = 6;
/// `IBV_QP_STATE`.
pub(crate) const QP_STATE: c_int = 1;
/// `IBV_QP_ACCESS_FLAGS`.
pub(crate) const QP_ACCESS_FLAGS: c_int = 1 << 3;
/// `IBV_QP_PKEY_INDEX`.
pub(crate) const QP_PKEY_INDEX: c_int = 1 << 4;
/// `IBV_QP_PORT`.
pub(crate) const QP_PORT: c_int = 1 << 5;
/// `IBV_QP_AV`.
pub(crate) const QP_AV: c_int = 1 << 7;
/// `IBV_QP_PATH_MTU`.
pub(crate) const QP_PATH_MTU: c_int = 1 << 8;
/// `IBV_QP_TIMEOUT`.
pub(crate) const QP_TIMEOUT: c_int = 1 << 9;
/// `IBV_QP_RETRY_CNT`.
pub(crate) const QP_RETRY_CNT: c_int = 1 << 10;
/// `IBV_QP_RNR_RETRY`.
pub(crate) const QP_RNR_RETRY: c_int = 1 << 11;
/// `IBV_QP_RQ_PSN`.
pub(crate) const QP_RQ_PSN: c_int = 1 << 12;
/// `IBV_QP_MAX_QP_RD_ATOMIC`.
pub(crate) const QP_MAX_QP_RD_ATOMIC: c_int = 1 << 13;
/// `IBV_QP_MIN_RNR_TIMER`.
pub(crate) const QP_MIN_RNR_TIMER: c_int = 1 << 15;
/// `IBV_QP_SQ_PSN`.
pub(crate) const QP_SQ_PSN: c_int = 1 << 16;
/// `IBV_QP_MAX_DEST_RD_ATOMIC`.
pub(crate) const QP_MAX_DEST_RD_ATOMIC: c_int = 1 << 17;
/// `IBV_QP_DEST_QPN`.
pub(crate) const QP_DEST_QPN: c_int = 1 << 20;
/// `IBV_WR_RDMA_WRITE_WITH_IMM`.
pub(crate) const WR_RDMA_WRITE_WITH_IMM: c_int = 1;
/// `IBV_SEND_SIGNALED`.
pub(crate) const SEND_SIGNALED: c_uint = 2;
/// `IBV_SEND_INLINE`.
pub(crate) const SEND_INLINE: c_uint = 8;
/// `IBV_WC_RECV_RDMA_WITH_IMM`.
pub(crate) const WC_RECV_RDMA_WITH_IMM: c_int = 129;
/// `IBV_WC_RDMA_WRITE`.
pub(crate) const WC_RDMA_WRITE: c_int = 1;
/// `IBV_WC_WITH_IMM`.
pub(crate) const WC_WITH_IMM: c_uint = 2;

/// Declares the table of functions and how it is filled.
macro_rules! functions {
    ($($name:ident, $version:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of libibverbs that this crate calls.
        #[derive(Debug)]
        pub(crate) struct Verbs {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Verbs {
            fn find(library: *mut c_void) -> Result<Self, LoadError> {
                Ok(Self {
                    $($name: {
                        let symbol = concat!(stringify!($name), "\0");
                        let address = symbol_address(library, symbol, concat!($version, "\0"))?;
                        // SAFETY: the address is that of the function of this name (line above),
                        // whose prototype in verbs.h is the one given here.
                        unsafe {
                            mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $result)?,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    ibv_get_device_list, "IBVERBS_1.1": fn(*mut c_int) -> *mut *mut IbvDevice;
    ibv_free_device_list, "IBVERBS_1.1": fn(*mut *mut IbvDevice);
    ibv_open_device, "IBVERBS_1.1": fn(*mut IbvDevice) -> *mut IbvContext;
    ibv_close_device, "IBVERBS_1.1": fn(*mut IbvContext) -> c_int;
    ibv_get_async_event, "IBVERBS_1.1": fn(*mut IbvContext, *mut IbvAsyncEvent) -> c_int;
    ibv_ack_async_event, "IBVERBS_1.1": fn(*mut IbvAsyncEvent);
    ibv_query_port, "IBVERBS_1.1": fn(*mut IbvContext, u8, *mut IbvPortAttr) -> c_int;
    ibv_query_gid, "IBVERBS_1.1": fn(*mut IbvContext, u8, c_int, *mut GidBytes) -> c_int;
    ibv_alloc_pd, "IBVERBS_1.1": fn(*mut IbvContext) -> *mut IbvPd;
    ibv_dealloc_pd, "IBVERBS_1.1": fn(*mut IbvPd) -> c_int;
    ibv_reg_mr, "IBVERBS_1.1": fn(*mut IbvPd, *mut c_void, usize, c_int) -> *mut IbvMr;
    ibv_dereg_mr, "IBVERBS_1.1": fn(*mut IbvMr) -> c_int;
    ibv_create_comp_channel, "IBVERBS_1.0": fn(*mut IbvContext) -> *mut IbvCompChannel;
    ibv_destroy_comp_channel, "IBVERBS_1.0": fn(*mut IbvCompChannel) -> c_int;
    ibv_create_cq, "IBVERBS_1.1":
        fn(*mut IbvContext, c_int, *mut c_void, *mut IbvCompChannel, c_int) -> *mut IbvCq;
    ibv_destroy_cq, "IBVERBS_1.1": fn(*mut IbvCq) -> c_int;
    ibv_get_cq_event, "IBVERBS_1.1":
        fn(*mut IbvCompChannel, *mut *mut IbvCq, *mut *mut c_void) -> c_int;
    ibv_ack_cq_events, "IBVERBS_1.1": fn(*mut IbvCq, c_uint);
    ibv_create_qp, "IBVERBS_1.1": fn(*mut IbvPd, *mut IbvQpInitAttr) -> *mut IbvQp;
    ibv_modify_qp, "IBVERBS_1.1": fn(*mut IbvQp, *mut IbvQpAttr, c_int) -> c_int;
    ibv_destroy_qp, "IBVERBS_1.1": fn(*mut IbvQp) -> c_int;
}

/// Why libibverbs cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadError {
    /// `libibverbs.so.1` is not there, or cannot be loaded.
    #[error(
        "libibverbs.so.1 cannot be loaded ({0}); it is in the package libibverbs1 or libibverbs"
    )]
    Library(String),
    /// It lacks a function.
    #[error("libibverbs.so.1 has no {0}: it is too old or not the one of rdma-core")]
    Symbol(&'static str),
}

impl Verbs {
    /// The library, loaded once per process and never unloaded.
    ///
    /// # Errors
    ///
    /// It is not there, or lacks a function.
    pub(crate) fn load() -> Result<&'static Self, LoadError> {
        static LOADED: OnceLock<Result<Verbs, LoadError>> = OnceLock::new();
        LOADED.get_or_init(|| Self::find(open_library()?)).as_ref().map_err(Clone::clone)
    }
}

fn open_library() -> Result<*mut c_void, LoadError> {
    const NAME: &CStr = c"libibverbs.so.1";
    // SAFETY: NAME ends with a zero. The constructors of libibverbs and its providers run here; they
    // are those of the host's package, which the operator trusts as much as the C library.
    let library = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() { Err(LoadError::Library(linker_error())) } else { Ok(library) }
}

/// What the dynamic linker says of its last failure.
fn linker_error() -> String {
    // SAFETY: dlerror(3) takes nothing.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: what is not null is a string that stays until this thread's next call of the linker.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The function in this version of its interface. Names of version 1.0 stand for another ABI, so
/// that plain dlsym(3) comes second: for a library without versions.
fn symbol_address(
    library: *mut c_void,
    symbol: &'static str,
    version: &'static str,
) -> Result<*mut c_void, LoadError> {
    debug_assert!(symbol.ends_with('\0') && version.ends_with('\0'));
    let (name, version) = (symbol.as_ptr().cast(), version.as_ptr().cast());
    // SAFETY: both strings end with a zero (the macro above), the library is never closed.
    let mut address = unsafe { libc::dlvsym(library, name, version) };
    if address.is_null() {
        // SAFETY: as above.
        address = unsafe { libc::dlsym(library, name) };
    }
    if address.is_null() {
        return Err(LoadError::Symbol(symbol.trim_end_matches('\0')));
    }
    Ok(address)
}

/// The error behind a call that returns 0 or an error number.
pub(crate) fn check(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod layout_tests;
