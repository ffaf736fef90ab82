// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long an interface takes: `cargo run --release -p coracle-net --example attach [COUNT [PORTS]]`, as root. It
//! happens in network namespaces that end with it. PORTS containers are on the bridge before the first one is timed.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use coracle_net::{Endpoint, Network, Range, attach, detach, raise_bridge};
use nix::sched::{CloneFlags, unshare};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u16>());
    let count = numbers.next().transpose()?.unwrap_or(200);
    let ports = numbers.next().transpose()?.unwrap_or(0);
    unshare(CloneFlags::CLONE_NEWNET)?;
    let (start, mut neighbours) = (Instant::now(), Vec::new());
    raise_bridge(&Network {
        name: "web".to_string(),
        bridge: "br0".to_string(),
        subnets: vec![
            Range { subnet: "10.9.0.0/16".parse()?, gateway: "10.9.0.1".parse()? },
            Range { subnet: "fd00:9::/64".parse()?, gateway: "fd00:9::1".parse()? },
        ],
        mtu: 0,
        internal: false,
        isolate: false,
        store: "".into(),
    })?;
    println!("bridge: {:.2} ms", ms(start.elapsed()));
    let mut times = Vec::new();
    for number in 0..ports {
        let container = namespace()?;
        let start = Instant::now();
        attach(&[endpoint(number + 1000, false)], container.as_fd())?;
        times.push(start.elapsed());
        neighbours.push(container);
    }
    print("attach one after another, IPv4", &mut times);
    for dual in [false, true] {
        let (mut attached, mut detached) = (Vec::new(), Vec::new());
        for number in 0..count {
            // The pairs of the first round end with their namespaces, in their own time.
            let (container, mut endpoint) = (namespace()?, endpoint(number, dual));
            endpoint.host_name = format!("{}-{}", endpoint.host_name, u8::from(dual));
            let start = Instant::now();
            attach(std::slice::from_ref(&endpoint), container.as_fd())?;
            attached.push(start.elapsed());
            let start = Instant::now();
            detach(&[endpoint.host_name])?;
            detached.push(start.elapsed());
        }
        let families = if dual { "IPv4 and IPv6" } else { "IPv4" };
        print(&format!("attach, {families}"), &mut attached);
        print(&format!("detach, {families}"), &mut detached);
    }
    Ok(())
}

fn print(name: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().map_or(f64::NAN, ms);
    if !times.is_empty() {
        println!("{name}: {:.2} ms at best, median {:.2}, 90 % {:.2}", at(0), at(50), at(90));
    }
}

fn endpoint(number: u16, dual: bool) -> Endpoint {
    let [a, b] = (number + 256).to_be_bytes();
    let mut endpoint = Endpoint {
        name: "eth0".to_string(),
        host_name: format!("oar{number}"),
        mac: None,
        addresses: vec![([10, 9, a, b].into(), 16)],
        gateways: vec![[10, 9, 0, 1].into()],
        mtu: 0,
        bridge: "br0".to_string(),
    };
    if dual {
        endpoint.addresses.push(([0xfd00, 9, 0, 0, 0, 0, 1, number].into(), 64));
        endpoint.gateways.push([0xfd00, 9, 0, 0, 0, 0, 0, 1].into());
    }
    endpoint
}

/// A new network namespace, held by the descriptor alone.
fn namespace() -> Outcome<File> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    };
    std::thread::spawn(make).join().map_err(|_| "a thread panicked")?
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
