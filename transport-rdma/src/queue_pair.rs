//! A reliably connected queue pair with the memory of one link: the calls of libibverbs behind
//! [`Queue`].
//!
//! Work requests name registered memory only, by region and range, checked against the region when
//! they are posted. The regions are dropped after the queue pair (order of the fields), so that the
//! device never works on memory that is gone.

use crate::device::{Channel, CompletionQueue, Device, Domain};
use crate::error::{AsyncEvent, DownCause, RdmaError, WorkStatus};
use crate::memory::{Access, Mapping, Region};
use crate::queue::{COMPLETIONS_MAX, Completion, Queue, Slice, Write};
use crate::registry::Registry;
use crate::ring;
use crate::settings::RdmaSettings;
use crate::sys::{self, Verbs, check};
use core::ffi::c_int;
use core::ptr::{self, NonNull};
use ringlane_dataplane::batch::Arena;
use std::io;

/// Gather entries per write that are asked for: heads and bodies of eight messages.
const SLICES_MAX: u32 = 16;
/// Bytes that a write may carry in the request itself; halved until the device agrees.
const INLINE_BYTES: u32 = 256;
/// 0.64 ms (table 46 of the InfiniBand specification); nobody waits for it, see `rnr_retry` below.
const MIN_RNR_TIMER: u8 = 12;
const HOP_LIMIT: u8 = 64;

/// What a peer has to know to write into this node's ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairAddress {
    /// Number of the queue pair, 24 bits.
    pub number: u32,
    /// First packet sequence number, 24 bits, random.
    pub psn: u32,
    /// Address of the port.
    pub gid: [u8; 16],
    /// Largest packet that this end takes, in bytes.
    pub mtu: u32,
    /// Address of the ring's first byte in this node's process.
    pub ring_address: u64,
    /// What a write has to show.
    pub ring_key: u32,
    /// Bytes of the ring.
    pub ring_bytes: u32,
}

/// The queue pair of one link.
#[derive(Debug)]
pub struct QueuePair {
    pair: Pair,
    /// Where the peer writes; none once its right is revoked.
    ring: Option<Region<Mapping>>,
    /// What heads, and bodies that have to be copied, are sent from.
    stage: Region<Mapping>,
    /// What other bodies are sent from.
    arenas: Registry<Region<Arena>>,
    ring_bytes: u32,
    stage_bytes: u32,
    mtu: u32,
    psn: u32,
    slices_max: u16,
    inline_max: u32,
    peer: Option<PairAddress>,
    requests: Vec<sys::IbvSendWr>,
    entries: Vec<sys::IbvSge>,
    receives: Vec<sys::IbvRecvWr>,
    done: [sys::IbvWc; COMPLETIONS_MAX],
}

// SAFETY: the raw pointers in `requests`, `entries` and `receives` are written anew before each
// call and mean nothing in between.
unsafe impl Send for QueuePair {}

/// The object itself. Destroyed before its completion queue, then the domain.
#[derive(Debug)]
struct Pair {
    pair: NonNull<sys::IbvQp>,
    verbs: &'static Verbs,
    queue: CompletionQueue,
    domain: Domain,
}

// SAFETY: libibverbs may be called from any thread; the pair belongs to this value alone.
unsafe impl Send for Pair {}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: made by `Pair::new` and destroyed once, before what it was made on.
        unsafe { (self.verbs.ibv_destroy_qp)(self.pair.as_ptr()) };
    }
}

impl Pair {
    /// A queue pair in state RESET, and how many bytes it takes inline.
    fn new(
        domain: &Domain,
        queue: CompletionQueue,
        cap: sys::IbvQpCap,
    ) -> Result<(Self, u32), RdmaError> {
        let verbs = domain.verbs();
        let mut cap = cap;
        loop {
            let mut attributes = sys::IbvQpInitAttr {
                qp_context: ptr::null_mut(),
                send_cq: queue.as_ptr(),
                recv_cq: queue.as_ptr(),
                srq: ptr::null_mut(),
                cap,
                qp_type: sys::QPT_RC,
                sq_sig_all: 0,
            };
            // SAFETY: a live domain and completion queue, both kept in the value that is made.
            let pair = unsafe { (verbs.ibv_create_qp)(domain.as_ptr(), &raw mut attributes) };
            if let Some(pair) = NonNull::new(pair) {
                let inline = attributes.cap.max_inline_data.min(INLINE_BYTES);
                return Ok((Self { pair, verbs, queue, domain: domain.clone() }, inline));
            }
            if cap.max_inline_data == 0 {
                return Err(RdmaError::last("ibv_create_qp"));
            }
            cap.max_inline_data /= 2;
        }
    }

    fn number(&self) -> u32 {
        // SAFETY: a live queue pair; the library sets its number when it makes it.
        unsafe { (*self.pair.as_ptr()).qp_num }
    }

    fn modify(&mut self, mut attributes: sys::IbvQpAttr, mask: c_int) -> io::Result<()> {
        let modify = self.verbs.ibv_modify_qp;
        // SAFETY: a live queue pair and a local that the call only reads.
        check(unsafe { modify(self.pair.as_ptr(), &raw mut attributes, mask) })
    }

    fn post_send(&mut self, first: *mut sys::IbvSendWr) -> io::Result<()> {
        let post = self.domain.device().operations().post_send;
        let mut bad = ptr::null_mut();
        // SAFETY: `first` heads a chain of live requests whose entries lie in live regions
        // (`QueuePair::post`, the only caller).
        check(unsafe { post(self.pair.as_ptr(), first, &raw mut bad) })
    }

    fn post_receive(&mut self, first: *mut sys::IbvRecvWr) -> io::Result<()> {
        let post = self.domain.device().operations().post_recv;
        let mut bad = ptr::null_mut();
        // SAFETY: `first` heads a chain of live requests without memory (`post_receives`).
        check(unsafe { post(self.pair.as_ptr(), first, &raw mut bad) })
    }
}

impl QueuePair {
    /// A queue pair of its own domain and completion queue, with a ring, a stage and all receives
    /// posted; it does nothing until [`QueuePair::connect`].
    ///
    /// `psn` should be random, so that packets of an earlier life with the same number are strangers.
    ///
    /// # Errors
    ///
    /// The device or the host has no more of something; locked memory is the first to look at.
    pub fn new(
        device: &Device,
        channel: Option<&Channel>,
        settings: &RdmaSettings,
        psn: u32,
    ) -> Result<Self, RdmaError> {
        settings.check()?;
        let domain = Domain::new(device)?;
        let (sends, receives) = ring::work_requests(ring::WRITES_MAX);
        let queue = CompletionQueue::new(device, sends + receives, channel)?;
        let cap = sys::IbvQpCap {
            max_send_wr: sends,
            max_recv_wr: receives,
            max_send_sge: SLICES_MAX,
            max_recv_sge: 1,
            max_inline_data: INLINE_BYTES,
        };
        let (pair, inline_max) = Pair::new(&domain, queue, cap)?;
        let memory = |name, bytes: u32| {
            Mapping::new(name, bytes as usize, settings.huge_pages)
                .map_err(RdmaError::of("memory for a link"))
        };
        let ring = memory(c"ringlane-ring", settings.ring_bytes)?;
        let stage = memory(c"ringlane-stage", settings.stage_bytes)?;
        let mut made = Self {
            pair,
            ring: Some(Region::new(&domain, ring, Access::Ring)?),
            stage: Region::new(&domain, stage, Access::Source)?,
            arenas: Registry::new(),
            ring_bytes: settings.ring_bytes,
            stage_bytes: settings.stage_bytes,
            mtu: settings.path_mtu.unwrap_or(u32::MAX).min(device.mtu()),
            psn: psn & 0xff_ffff,
            slices_max: SLICES_MAX as u16,
            inline_max,
            peer: None,
            requests: Vec::with_capacity(sends as usize),
            entries: Vec::with_capacity((sends * SLICES_MAX) as usize),
            receives: Vec::with_capacity(receives as usize),
            done: [sys::IbvWc::default(); COMPLETIONS_MAX],
        };
        made.initialise().map_err(RdmaError::of("ibv_modify_qp to INIT"))?;
        made.post_receives(receives).map_err(|cause| RdmaError::Setting(cause.to_string()))?;
        Ok(made)
    }

    /// RESET to INIT: which port, and what the peer may do.
    fn initialise(&mut self) -> io::Result<()> {
        let attributes = sys::IbvQpAttr {
            qp_state: sys::QPS_INIT,
            port_num: self.pair.domain.device().place().port as u8,
            qp_access_flags: sys::ACCESS_REMOTE_WRITE as u32,
            ..Default::default()
        };
        let mask = sys::QP_STATE | sys::QP_PKEY_INDEX | sys::QP_PORT | sys::QP_ACCESS_FLAGS;
        self.pair.modify(attributes, mask)
    }

    /// What the peer has to know.
    #[must_use]
    pub fn address(&self) -> PairAddress {
        let ring = self.ring.as_ref();
        PairAddress {
            number: self.pair.number(),
            psn: self.psn,
            gid: self.pair.domain.device().gid(),
            mtu: self.mtu,
            ring_address: ring.map_or(0, |ring| ring.memory().address()),
            ring_key: ring.map_or(0, Region::rkey),
            ring_bytes: self.ring_bytes,
        }
    }

    /// Goes to RTR and RTS with the peer's address: from now on both sides may write.
    ///
    /// # Errors
    ///
    /// The device refuses the peer's address, or it was none.
    pub fn connect(&mut self, peer: PairAddress, settings: &RdmaSettings) -> Result<(), RdmaError> {
        let mtu = self.address().mtu.min(peer.mtu.max(256));
        let place = self.pair.domain.device().place().clone();
        let route = sys::IbvGlobalRoute {
            dgid: peer.gid,
            flow_label: 0,
            sgid_index: place.gid_index as u8,
            hop_limit: HOP_LIMIT,
            traffic_class: settings.traffic_class,
        };
        let ready = sys::IbvQpAttr {
            qp_state: sys::QPS_RTR,
            path_mtu: mtu_code(mtu),
            dest_qp_num: peer.number & 0xff_ffff,
            rq_psn: peer.psn & 0xff_ffff,
            max_dest_rd_atomic: 0,
            min_rnr_timer: MIN_RNR_TIMER,
            ah_attr: sys::IbvAhAttr {
                grh: route,
                is_global: 1,
                port_num: place.port as u8,
                ..Default::default()
            },
            ..Default::default()
        };
        let mask = sys::QP_STATE
            | sys::QP_AV
            | sys::QP_PATH_MTU
            | sys::QP_DEST_QPN
            | sys::QP_RQ_PSN
            | sys::QP_MAX_DEST_RD_ATOMIC
            | sys::QP_MIN_RNR_TIMER;
        self.pair.modify(ready, mask).map_err(RdmaError::of("ibv_modify_qp to RTR"))?;
        let sending = sys::IbvQpAttr {
            qp_state: sys::QPS_RTS,
            sq_psn: self.psn,
            timeout: settings.ack_timeout,
            retry_cnt: settings.retries,
            // A peer without a receive is a broken count, not something to wait for.
            rnr_retry: 0,
            max_rd_atomic: 0,
            ..Default::default()
        };
        let mask = sys::QP_STATE
            | sys::QP_TIMEOUT
            | sys::QP_RETRY_CNT
            | sys::QP_RNR_RETRY
            | sys::QP_SQ_PSN
            | sys::QP_MAX_QP_RD_ATOMIC;
        self.pair.modify(sending, mask).map_err(RdmaError::of("ibv_modify_qp to RTS"))?;
        self.peer = Some(peer);
        Ok(())
    }

    /// Why batches are copied instead of sent from where they are, once.
    pub fn take_refusal(&mut self) -> Option<RdmaError> {
        self.arenas.take_refusal()
    }

    /// Whether an event of the device is about this queue pair or its completion queue.
    #[must_use]
    pub fn is_subject(&self, event: &AsyncEvent) -> bool {
        let own = [self.pair.pair.as_ptr() as u64, self.pair.queue.as_ptr() as u64];
        own.contains(&event.subject)
    }

    /// Goes to ERR, which flushes what is under way and refuses what comes, and to RESET, which forgets
    /// the peer. Either is enough. The ring stays where it is, and nobody writes to it any more.
    ///
    /// # Errors
    ///
    /// The device did not do it.
    pub fn disconnect(&mut self) -> Result<(), DownCause> {
        for state in [sys::QPS_ERR, sys::QPS_RESET] {
            let attributes = sys::IbvQpAttr { qp_state: state, ..Default::default() };
            let done = self.pair.modify(attributes, sys::QP_STATE);
            done.map_err(failed("ibv_modify_qp to revoke"))?;
        }
        self.peer = None;
        Ok(())
    }

    /// Fills `requests` and `entries` with the chain; pointers between them are set by the caller,
    /// when neither grows any more.
    fn build(&mut self, chain: &[Write], slices: &[Slice], peer: &PairAddress) {
        self.requests.clear();
        self.entries.clear();
        for slice in slices {
            self.entries.push(match slice.region {
                0 => self.stage.entry(slice.at, slice.bytes),
                arena => self.arenas.get(usize::from(arena) - 1).entry(slice.at, slice.bytes),
            });
        }
        for write in chain {
            let flags = [(write.signalled, sys::SEND_SIGNALED), (write.inline, sys::SEND_INLINE)];
            self.requests.push(sys::IbvSendWr {
                wr_id: write.id,
                next: ptr::null_mut(),
                sg_list: ptr::null_mut(),
                num_sge: c_int::from(write.slices),
                opcode: sys::WR_RDMA_WRITE_WITH_IMM,
                send_flags: flags.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum(),
                imm_data: write.imm.to_be(),
                remote_addr: peer.ring_address.wrapping_add(u64::from(write.at)),
                rkey: peer.ring_key,
                rest: [0; 9],
            });
        }
    }

    /// Links the requests with each other and with their entries; the first of the chain.
    fn chain(&mut self) -> *mut sys::IbvSendWr {
        let entries = self.entries.as_mut_ptr();
        let requests = self.requests.as_mut_ptr();
        let count = self.requests.len();
        let mut entry = 0;
        for (index, request) in self.requests.iter_mut().enumerate() {
            request.sg_list = entries.wrapping_add(entry);
            entry += usize::try_from(request.num_sge).unwrap_or(0);
            if index + 1 < count {
                request.next = requests.wrapping_add(index + 1);
            }
        }
        assert_eq!(entry, self.entries.len(), "every slice belongs to a write");
        requests
    }
}

/// Bytes as `ibv_mtu`.
fn mtu_code(bytes: u32) -> c_int {
    (bytes.clamp(256, 4096).ilog2() - 7) as c_int
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> DownCause {
    move |error| DownCause::Call { call, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// What a completion says. Of one in error only the status and the identity are valid.
fn completion(done: &sys::IbvWc) -> Completion {
    if done.status != 0 {
        return Completion::Failed(WorkStatus(done.status));
    }
    if done.opcode == sys::WC_RECV_RDMA_WITH_IMM && done.wc_flags & sys::WC_WITH_IMM != 0 {
        return Completion::Landed { imm: u32::from_be(done.imm_data) };
    }
    if done.opcode == sys::WC_RDMA_WRITE {
        return Completion::Done { id: done.wr_id };
    }
    // A SEND, which no peer of ours makes: an invalid request.
    Completion::Failed(WorkStatus::REM_INV_REQ)
}

impl Queue for QueuePair {
    fn ring_bytes(&self) -> u32 {
        self.ring_bytes
    }

    fn stage_bytes(&self) -> u32 {
        self.stage_bytes
    }

    fn slices_max(&self) -> u16 {
        self.slices_max
    }

    fn stage(&mut self, at: u32, bytes: &[u8]) {
        self.stage.memory_mut().copy_in(at as usize, bytes);
    }

    fn inline_max(&self) -> u32 {
        self.inline_max
    }

    fn slice_of(&mut self, bytes: &[u8], arena: &Arena) -> Option<Slice> {
        let domain = &self.pair.domain;
        let register = |arena: &Arena| Region::new(domain, arena.clone(), Access::Source);
        let (index, at) = self.arenas.place_of(bytes, arena, register)?;
        let region = u16::try_from(index + 1).ok()?;
        let (at, bytes) = (u32::try_from(at).ok()?, u32::try_from(bytes.len()).ok()?);
        Some(Slice { region, at, bytes })
    }

    fn post(&mut self, chain: &[Write], slices: &[Slice]) -> Result<(), DownCause> {
        let Some(peer) = self.peer else { return Err(DownCause::Flushed) };
        if chain.is_empty() {
            return Ok(());
        }
        self.build(chain, slices, &peer);
        let first = self.chain();
        self.pair.post_send(first).map_err(failed("ibv_post_send"))
    }

    fn post_receives(&mut self, count: u32) -> Result<(), DownCause> {
        if count == 0 {
            return Ok(());
        }
        let empty = sys::IbvRecvWr {
            wr_id: 0,
            next: ptr::null_mut(),
            sg_list: ptr::null_mut(),
            num_sge: 0,
        };
        self.receives.clear();
        self.receives.resize(count as usize, empty);
        let first = self.receives.as_mut_ptr();
        for (index, receive) in self.receives.iter_mut().enumerate().take(count as usize - 1) {
            receive.next = first.wrapping_add(index + 1);
        }
        self.pair.post_receive(first).map_err(failed("ibv_post_recv"))
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<(), DownCause> {
        let count = self.pair.queue.poll(&mut self.done).map_err(failed("ibv_poll_cq"))?;
        into.extend(self.done[..count].iter().map(completion));
        Ok(())
    }

    fn copy_ring(&self, at: u32, into: &mut [u8]) {
        let ring = self.ring.as_ref().expect("nothing is read after the right was revoked");
        ring.memory().copy_out(at as usize, into);
    }

    fn arm(&mut self) -> Result<(), DownCause> {
        self.pair.queue.arm().map_err(failed("ibv_req_notify_cq"))
    }

    fn revoke(&mut self) -> Result<(), DownCause> {
        self.disconnect()?;
        self.ring = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_sizes_are_codes() {
        let codes = [(256, 1), (512, 2), (1024, 3), (1500, 3), (2048, 4), (4096, 5), (9000, 5)];
        for (bytes, code) in codes {
            assert_eq!(mtu_code(bytes), code, "{bytes}");
        }
    }

    #[test]
    fn completions_say_what_happened() {
        let done = sys::IbvWc { wr_id: 7, opcode: sys::WC_RDMA_WRITE, ..Default::default() };
        assert_eq!(completion(&done), Completion::Done { id: 7 });
        let landed = sys::IbvWc {
            opcode: sys::WC_RECV_RDMA_WITH_IMM,
            wc_flags: sys::WC_WITH_IMM,
            imm_data: 0x0102_0304_u32.to_be(),
            ..Default::default()
        };
        assert_eq!(completion(&landed), Completion::Landed { imm: 0x0102_0304 });
        let failed = sys::IbvWc { status: 12, ..landed };
        assert_eq!(completion(&failed), Completion::Failed(WorkStatus::RETRY_EXC));
        let foreign = sys::IbvWc { opcode: 128, ..Default::default() };
        assert!(matches!(completion(&foreign), Completion::Failed(_)));
    }
}
