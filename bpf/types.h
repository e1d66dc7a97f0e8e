// SPDX-License-Identifier: Apache-2.0
//
// Every type that C and Go share. Go's are generated from these (bpf2go), never written twice.
#pragma once

#include <linux/types.h>

// An IPv6 address, or an IPv4 one as v4-mapped (::ffff:a.b.c.d): one family in the whole machine. Network byte order.
struct addr {
	__be32 word[4];
};

struct mac {
	__u8 byte[6];
};

// What became of a packet: an entry point's result and the index of its counter. The words are those of the
// command line and of the metrics (outcome.go); the packet's walk in docs/datapath.md says when each happens.
enum outcome {
	GO_ON = 0, // not an outcome: the next stage decides

	TO_STACK, // the kernel's own stack goes on with it
	TO_POD,
	TO_NATIVE,
	TO_FABRIC,
	TO_TUNNEL,
	TO_SENDER, // an ARP reply

	DROP_MALFORMED,
	DROP_NOT_IP,
	DROP_SPOOFED_SOURCE,
	DROP_SPOOFED_MAC,
	DROP_SPOOFED_NEIGHBOUR,
	DROP_ROUTER_ADVERTISEMENT,
	DROP_MULTICAST,
	DROP_BAD_DESTINATION,
	DROP_TUNNEL_INJECTION,
	DROP_UNKNOWN_TUNNEL_PEER,
	DROP_NO_TUNNEL_PEER,

	OUTCOMES,
};

// An address of this node.
struct endpoint {
	__u32 ifindex; // host side of the pod's link; 0: the node's own address
	struct mac pod_mac;
	struct mac host_mac;
	__u32 shaped; // 1: queues on the link limit the pod, so both ways lead through the stack
};

enum remote_kind {
	REMOTE_NATIVE = 1, // to the neighbour `via` on link `ifindex`
	REMOTE_FABRIC,	   // wherever the kernel's routes lead
	REMOTE_TUNNEL,	   // encapsulated to `node`
};

// A prefix of another node: a pod CIDR or one of its own addresses.
struct remote {
	enum remote_kind kind;
	__u32 ifindex;
	struct addr via;
	struct addr node; // who it is; the same in all rows of a node
	__u32 host;	  // 1: the prefix is the node's own address
};

struct remote_key {
	__u32 prefixlen; // of addr: an IPv4 prefix counts 96 more
	struct addr addr;
};

struct prefix {
	struct addr addr;
	struct addr mask;
};

// The one configuration row. A mask of zero with an address of ones matches nothing.
struct config {
	__u32 tunnel_ifindex; // 0: there is no tunnel
	__u32 tunnel_vni;
	__be16 tunnel_port;
	__u16 unused;
	struct prefix pod_cidr[2];
};

struct count {
	__u64 packets;
	__u64 bytes;
};

// An address that is taken but has no link of ours: held for another plugin's link, or cooling down. The datapath
// does not read it: it is here because what the kernel keeps outlives the agent.
struct reservation {
	__u64 freed; // ns of CLOCK_BOOTTIME when it was freed; 0: still held
	__u8 network[64];
	__u8 container[136];
	__u8 ifname[16];
};
