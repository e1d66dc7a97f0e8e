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

// One direction of a flow, as its packets arrive.
struct tuple {
	struct addr src, dst;
	__be16 sport, dport;
	__u8 proto;
	__u8 unused[3];
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
	TO_NODE,   // to the node itself, from a Service's address
	REFUSED,   // answered with a reset or an ICMP error: nobody serves that port

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
	DROP_NO_BACKEND,
	DROP_NO_LOCAL_BACKEND,
	DROP_NO_SUCH_SERVICE,
	DROP_SOURCE_RANGE,
	DROP_FLOWS_FULL,
	DROP_FRAGMENT,
	DROP_EGRESS_DENIED,  // by a policy of the sender
	DROP_INGRESS_DENIED, // by a policy of the receiver
	DROP_JUDGED_FULL,    // no room to remember a flow that has been judged

	OUTCOMES,
};

// An address of this node.
struct endpoint {
	__u32 ifindex; // host side of the pod's link; 0: the node's own address
	struct mac pod_mac;
	struct mac host_mac;
	__u32 shaped;	       // 1: queues on the link limit the pod, so both ways lead through the stack
	__u32 late;	       // 1: it ran before it was isolated, so that it has flows which nobody has seen begin
	__u64 ingress, egress; // rulesets; RULESET_OPEN: no policy isolates it that way
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
	__u8 services;	    // 1: frontends are served
	__u8 ask_conntrack; // 1: others on this node translate, too: ask the kernel's table before a short way is taken
	__u8 socket_udp;    // 1: sockets that are connected to a backend which is gone can be closed
	__u8 others_pods;   // 1: another plugin connects pods, and only the stack knows their links
	__u8 policies;	    // 1: packets of isolated pods are judged
	__u8 blocks;	    // 1: there are classes of prefixes
	__u64 host_cookie;  // of the node's own network namespace
	struct addr node[2]; // the node's own address, IPv4 and IPv6; zero: it has none
	struct prefix pod_cidr[2];
	struct prefix service_cidr[2]; // of the cluster IPs, IPv4 and IPv6
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

// A port of this node that leads to a pod: what a pod's container asked for (hostPort). The address may be unspecified:
// every address of the node in that family. As reservations, it outlives the agent, and no program reads it: those read
// the frontends that are made of it.
struct hostport_key {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 unused;
};

struct hostport {
	struct addr pod;
	__be16 port; // of the pod
	__u16 unused;
	__u8 link[16]; // host side of the pod's link
};

// An address, port and protocol that clients use. All zero but for the family: any address of any node (a node port).
struct frontend_key {
	struct addr addr;
	__be16 port; // 0 with protocol 0: the address is some Service's, whatever the port
	__u8 proto;
	__u8 unused;
};

enum frontend_flags {
	FRONTEND_ADDRESS = 1 << 0,	 // no port, just the address
	FRONTEND_INSIDE_LOCAL = 1 << 2,	 // clients inside the cluster get backends of this node alone
	FRONTEND_OUTSIDE_LOCAL = 1 << 3, // and so do clients outside
	FRONTEND_INSIDE_DROP = 1 << 4,	 // there is no such backend here, but elsewhere: no answer
	FRONTEND_OUTSIDE_DROP = 1 << 5,
	FRONTEND_SOURCE_RANGES = 1 << 6, // clients must be in source_ranges
};

// Which backends a client gets: slots first to first + count - 1 of the generation. None: refused.
struct choice {
	__u32 first;
	__u32 count;
};

struct frontend {
	__u64 generation; // of its backends: never used for others
	__u64 owner;	  // the Service port, whatever its generation
	struct choice inside, outside;
	__u32 affinity; // seconds; 0: none
	__u32 ring; // the length of the generation's ring, by which clients outside get their backend; 0: it has none
	enum frontend_flags flags;
};

struct backend_key {
	__u64 generation;
	__u32 slot;
	__u32 unused;
};

struct backend {
	struct addr addr;
	__be16 port;
	__u16 unused;
};

// Is a backend in a generation?
struct member_key {
	__u64 generation;
	struct backend backend;
	__u32 unused;
};

enum member_sets {
	MEMBER_CLUSTER = 1,
	MEMBER_LOCAL = 2,
};

struct member {
	enum member_sets sets; // that it is in
	__u32 slot;	       // in the first of them
};

// A prefix that may use a frontend: the owner comes first, and all its bits count.
struct source_range_key {
	__u32 prefixlen;
	__u32 unused;
	__u64 owner;
	struct addr addr;
};

// A client that stays with its backend. Client: its address; for sockets, which have none yet, its namespace's cookie.
struct affinity_key {
	__u64 owner;
	struct addr client;
};

struct affinity {
	__u64 used; // ns of CLOCK_BOOTTIME
	struct backend backend;
	__u32 unused;
};

// What a socket was told, and what it got.
struct translation {
	__u64 generation;
	struct addr addr; // the frontend, as the program named it
	__be16 port;
	__u16 set; // 1: the rest says something
	struct backend backend;
};

// Of a socket that sends to many: the last ones it sent to.
struct translations {
	struct translation of[8];
	__u32 next;
	__u32 unused;
};

enum flow_flags {
	FLOW_REPLY = 1 << 0,	// from the backend to the client
	FLOW_SEEN = 1 << 1,	// a packet of this direction has passed
	FLOW_CLOSING = 1 << 2,	// and one of them was a FIN or RST
	FLOW_HANDED = 1 << 3,	// to node `node`, unchanged: the backend is there
	FLOW_RETURN = 1 << 4,	// by way of node `node`, which handed it over
	FLOW_ANSWERED = 1 << 5, // handed over, and an answer has come back
};

// What a packet of a translated flow becomes. A flow has two of these, one a direction, each found by its own tuple and
// changed by its own packets alone.
struct flow {
	struct addr src, dst;
	__be16 sport, dport;
	enum flow_flags flags;
	__u32 used;  // ticks of the last packet
	__u32 slot;  // handed over: the backend's, counted from the first one that the client may get
	__u64 owner; // the Service port
	struct addr node;
};

// The fragments of one packet. Value: its ports.
struct fragment_key {
	struct addr src, dst;
	__u32 id;
	__u32 proto;
};

struct fragment {
	__be16 sport, dport;
};
