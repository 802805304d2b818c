//! A device as this process has it open: its context, protection domains, completion queues and the
//! channel that tells of completions while a core sleeps.
//!
//! Each value here owns one object of libibverbs and keeps alive what that object needs, so that
//! they are destroyed in the order that the library demands, whoever is dropped last.

use crate::choose::Place;
use crate::error::{AsyncEvent, RdmaError};
use crate::sys::{self, Verbs};
use core::ffi::{CStr, c_int};
use core::ptr::{self, NonNull};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;

#[derive(Debug)]
struct Context {
    verbs: &'static Verbs,
    context: NonNull<sys::IbvContext>,
}

// SAFETY: libibverbs may be called from any thread (ibv_open_device's objects carry their locks).
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by `Device::open`, and closed once: everything made on it holds an Arc.
        unsafe { (self.verbs.ibv_close_device)(self.context.as_ptr()) };
    }
}

/// An open device and the port and address on it that links use.
#[derive(Clone, Debug)]
pub struct Device {
    context: Arc<Context>,
    place: Place,
    gid: sys::GidBytes,
    mtu: u32,
}

impl Device {
    /// Opens the device of `place`.
    ///
    /// # Errors
    ///
    /// No library, no such device, or the port is not active (any more).
    pub fn open(place: &Place) -> Result<Self, RdmaError> {
        let verbs = Verbs::load()?;
        let context = Arc::new(Context { verbs, context: open_by_name(verbs, &place.device)? });
        let port = query_port(&context, place.port)?;
        if port.state != sys::PORT_ACTIVE {
            return Err(RdmaError::NoActivePort(place.device.clone()));
        }
        let gid = query_gid(&context, place)?;
        let device = Self { context, place: place.clone(), gid, mtu: mtu_bytes(port.active_mtu) };
        set_nonblocking(device.events_fd())
            .map_err(RdmaError::of("the device's event descriptor"))?;
        Ok(device)
    }

    /// Where on the host it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its address, as a peer has to know it.
    #[must_use]
    pub fn gid(&self) -> [u8; 16] {
        self.gid
    }

    /// Largest packet of the port, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    pub(crate) fn verbs(&self) -> &'static Verbs {
        self.context.verbs
    }

    /// The functions that the header's inline functions call, as the provider filled them in.
    pub(crate) fn operations(&self) -> &sys::IbvContextOps {
        // SAFETY: the context is open as long as `self.context` is, and nobody writes to it.
        unsafe { &(*self.context.context.as_ptr()).ops }
    }

    /// What the device reports besides completions, one event per call; `None` if there is nothing.
    #[must_use]
    pub fn next_event(&self) -> Option<AsyncEvent> {
        let mut event = sys::IbvAsyncEvent { element: 0, event_type: -1 };
        let (verbs, context) = (self.context.verbs, self.context.context.as_ptr());
        // SAFETY: the context is open; the call fills the event or fails, and does not wait, because
        // `open` made its descriptor non-blocking.
        if unsafe { (verbs.ibv_get_async_event)(context, &raw mut event) } != 0 {
            return None;
        }
        let found = AsyncEvent { kind: event.event_type, subject: event.element };
        // SAFETY: the event that was just taken, acknowledged once: the object that it names could
        // not be destroyed before.
        unsafe { (verbs.ibv_ack_async_event)(&raw mut event) };
        Some(found)
    }

    /// Readable when [`Device::next_event`] has something.
    pub(crate) fn events_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: an open context, whose descriptor stays open until it is closed (Context's Drop),
        // which needs `self.context` to be gone.
        let fd: RawFd = unsafe { (*self.context.context.as_ptr()).async_fd };
        // SAFETY: as above; the borrow ends with `self`.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

fn open_by_name(verbs: &Verbs, name: &str) -> Result<NonNull<sys::IbvContext>, RdmaError> {
    let mut count: c_int = 0;
    // SAFETY: the count is a live local.
    let list = unsafe { (verbs.ibv_get_device_list)(&raw mut count) };
    if list.is_null() {
        // ENOSYS: the kernel has no RDMA. The list must not be freed then: the library would crash.
        return Err(RdmaError::NoDevice);
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the library returned that many pointers, and they stay until the list is freed below.
    let devices = unsafe { core::slice::from_raw_parts(list, count) };
    let found = devices.iter().find(|device| has_name(**device, name));
    let opened = match found {
        // SAFETY: a device of the list, which is not freed yet.
        Some(device) => NonNull::new(unsafe { (verbs.ibv_open_device)(*device) })
            .ok_or_else(|| RdmaError::last("ibv_open_device")),
        None => Err(RdmaError::NoSuchDevice(name.to_owned())),
    };
    // SAFETY: the list from above, freed once; the name was compared before.
    unsafe { (verbs.ibv_free_device_list)(list) };
    opened
}

/// Whether a device of a list that is not freed yet has this name.
fn has_name(device: *mut sys::IbvDevice, name: &str) -> bool {
    // SAFETY: the caller's list is alive, and nothing is read here.
    let start = unsafe { &raw const (*device).name };
    // SAFETY: the name is an array that ends with a zero (ibv_device in verbs.h).
    unsafe { CStr::from_ptr(start.cast()) }.to_bytes() == name.as_bytes()
}

fn query_port(context: &Context, port: u16) -> Result<sys::IbvPortAttr, RdmaError> {
    let port = u8::try_from(port).map_err(|_| RdmaError::Setting(format!("no port {port}")))?;
    let mut attributes = sys::IbvPortAttr::default();
    let query = context.verbs.ibv_query_port;
    // SAFETY: the exported function fills the structure of old, which is a prefix of this one.
    let code = unsafe { query(context.context.as_ptr(), port, &raw mut attributes) };
    sys::check(code).map_err(RdmaError::of("ibv_query_port"))?;
    Ok(attributes)
}

fn query_gid(context: &Context, place: &Place) -> Result<sys::GidBytes, RdmaError> {
    let mut gid = [0; 16];
    let port = u8::try_from(place.port).unwrap_or(1);
    let query = context.verbs.ibv_query_gid;
    // SAFETY: the function fills 16 bytes.
    let code = unsafe {
        query(context.context.as_ptr(), port, c_int::from(place.gid_index), &raw mut gid)
    };
    if code != 0 {
        return Err(RdmaError::last("ibv_query_gid"));
    }
    Ok(gid)
}

/// `ibv_mtu` as bytes.
fn mtu_bytes(code: c_int) -> u32 {
    128 << code.clamp(1, 5)
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = fcntl_getfl(fd)?;
    Ok(fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

#[derive(Debug)]
struct DomainInner {
    device: Device,
    domain: NonNull<sys::IbvPd>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for DomainInner {}
// SAFETY: as above.
unsafe impl Sync for DomainInner {}

impl Drop for DomainInner {
    fn drop(&mut self) {
        // SAFETY: made by `Domain::new`; regions and queue pairs hold an Arc, so that none is left.
        unsafe { (self.device.verbs().ibv_dealloc_pd)(self.domain.as_ptr()) };
    }
}

/// A protection domain: what is registered in one is out of reach for the peers of others.
#[derive(Clone, Debug)]
pub(crate) struct Domain(Arc<DomainInner>);

impl Domain {
    pub(crate) fn new(device: &Device) -> Result<Self, RdmaError> {
        // SAFETY: an open context.
        let domain = unsafe { (device.verbs().ibv_alloc_pd)(device.context.context.as_ptr()) };
        let domain = NonNull::new(domain).ok_or_else(|| RdmaError::last("ibv_alloc_pd"))?;
        Ok(Self(Arc::new(DomainInner { device: device.clone(), domain })))
    }

    pub(crate) fn verbs(&self) -> &'static Verbs {
        self.0.device.verbs()
    }

    pub(crate) fn device(&self) -> &Device {
        &self.0.device
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::IbvPd {
        self.0.domain.as_ptr()
    }
}

#[derive(Debug)]
struct ChannelInner {
    device: Device,
    channel: NonNull<sys::IbvCompChannel>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for ChannelInner {}
// SAFETY: as above.
unsafe impl Sync for ChannelInner {}

impl Drop for ChannelInner {
    fn drop(&mut self) {
        // SAFETY: made by `Channel::new`; completion queues on it hold an Arc, so that none is left.
        unsafe { (self.device.verbs().ibv_destroy_comp_channel)(self.channel.as_ptr()) };
    }
}

/// Tells of completions: its descriptor becomes readable when a queue that was armed has one.
#[derive(Clone, Debug)]
pub struct Channel(Arc<ChannelInner>);

impl Channel {
    /// A channel for the completion queues of one core.
    ///
    /// # Errors
    ///
    /// What the library says.
    pub fn new(device: &Device) -> Result<Self, RdmaError> {
        // SAFETY: an open context.
        let channel =
            unsafe { (device.verbs().ibv_create_comp_channel)(device.context.context.as_ptr()) };
        let channel =
            NonNull::new(channel).ok_or_else(|| RdmaError::last("ibv_create_comp_channel"))?;
        let channel = Self(Arc::new(ChannelInner { device: device.clone(), channel }));
        set_nonblocking(channel.as_fd()).map_err(RdmaError::of("the completion channel"))?;
        Ok(channel)
    }

    /// Takes one notice, so that the descriptor is no longer readable for it. `false` if there is
    /// none.
    pub fn take_notice(&self) -> bool {
        let (mut queue, mut context) = (ptr::null_mut(), ptr::null_mut());
        let verbs = self.0.device.verbs();
        let channel = self.0.channel.as_ptr();
        // SAFETY: a live channel, whose descriptor does not block (`new`), and two locals.
        if unsafe { (verbs.ibv_get_cq_event)(channel, &raw mut queue, &raw mut context) } != 0 {
            return false;
        }
        // SAFETY: the queue of the notice; it cannot be destroyed before this acknowledgement,
        // which ibv_destroy_cq(3) waits for.
        unsafe { (verbs.ibv_ack_cq_events)(queue, 1) };
        true
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: a live channel, whose descriptor stays open until it is destroyed.
        let fd: RawFd = unsafe { (*self.0.channel.as_ptr()).fd };
        // SAFETY: as above; the borrow ends with `self`.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

/// A completion queue: all that one queue pair has done, in both directions.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    device: Device,
    queue: NonNull<sys::IbvCq>,
    _channel: Option<Channel>,
}

// SAFETY: libibverbs may be called from any thread; the queue belongs to this value alone.
unsafe impl Send for CompletionQueue {}

impl CompletionQueue {
    /// A queue for `entries` completions.
    pub(crate) fn new(
        device: &Device,
        entries: u32,
        channel: Option<&Channel>,
    ) -> Result<Self, RdmaError> {
        let entries = c_int::try_from(entries)
            .map_err(|_| RdmaError::Setting("too many completions".to_owned()))?;
        let notices = channel.map_or(ptr::null_mut(), |channel| channel.0.channel.as_ptr());
        let create = device.verbs().ibv_create_cq;
        let context = device.context.context.as_ptr();
        // SAFETY: an open context; the channel, if any, is kept in this value.
        let queue = unsafe { create(context, entries, ptr::null_mut(), notices, 0) };
        let queue = NonNull::new(queue).ok_or_else(|| RdmaError::last("ibv_create_cq"))?;
        Ok(Self { device: device.clone(), queue, _channel: channel.cloned() })
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::IbvCq {
        self.queue.as_ptr()
    }

    /// Takes completions, as many as fit.
    pub(crate) fn poll(&mut self, into: &mut [sys::IbvWc]) -> io::Result<usize> {
        let room = c_int::try_from(into.len()).unwrap_or(c_int::MAX);
        let poll = self.device.operations().poll_cq;
        // SAFETY: a live queue, and room for that many completions.
        let count = unsafe { poll(self.queue.as_ptr(), room, into.as_mut_ptr()) };
        usize::try_from(count).map_err(|_| io::Error::from_raw_os_error(libc::EIO))
    }

    /// Asks for one notice at the next completion. One that came before gives none: poll once more.
    pub(crate) fn arm(&mut self) -> io::Result<()> {
        let arm = self.device.operations().req_notify_cq;
        // SAFETY: a live queue.
        sys::check(unsafe { arm(self.queue.as_ptr(), 0) })
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: made by `new`; the one queue pair on it owns this value and is destroyed first
        // (order of fields in `QueuePair`). Notices were acknowledged when they were taken.
        unsafe { (self.device.verbs().ibv_destroy_cq)(self.queue.as_ptr()) };
    }
}
