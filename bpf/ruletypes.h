// SPDX-License-Identifier: Apache-2.0
//
// The types of policies, and of the room that programs have to put things together.
#pragma once

#include "types.h"

// Rulesets without rows.
enum {
	RULESET_OPEN = 0,
	RULESET_CLOSED = 1, // nothing but to and from the node itself
};

// What a ruleset says about one class of peers and one protocol. Class 0: peers of no class, and all that have no row
// of their own. Protocol 0: all that have no row of their own.
struct rule_key {
	__u64 ruleset;
	__u64 class;
	__u8 proto;
	__u8 part; // a row of more spans than one value holds goes on in the next part
	__u8 unused[6];
};

enum {
	SPANS = 6,
	DECISION_ALLOW = 1U << 31,
	DECISION_NONE = 0x7fffffff, // nobody's: there is no rule at all
};

// Ports, host byte order, both ends included. The decision's other bits say who decided (policy.Decision).
struct span {
	__u16 first, last;
	__u32 decision;
};

// Sorted, and without gaps from port 0 to the last. What is not used is zero: only a row's very first span can end with
// port 0. (With no count beside them, an element is 128 bytes with all that the kernel adds: two lines of a cache.)
struct rule {
	struct span spans[SPANS];
};

struct class_key {
	__u32 prefixlen; // of addr: an IPv4 prefix counts 96 more
	struct addr addr;
};

enum judged_flags {
	JUDGED_ANSWERED = 1 << 0, // a packet has come back
	JUDGED_CLOSING = 1 << 1,  // one of them was a FIN or RST
	JUDGED_OWN = 1 << 2,	  // the node itself opened it: it passes whatever the rules say
};

// A flow with an isolated end on this node, by the tuple of the packets of whoever opened it. Its answers pass.
struct judged {
	__u32 used; // ticks of the last packet, either way
	enum judged_flags flags;
};

// A packet that has passed: the same again, in the same moment, needs no look-ups.
struct recent {
	struct tuple tuple;
	__u32 epoch;		     // of the tables
	__u32 moment;		     // that it was judged in
	__u64 egress[2], ingress[2]; // rulesets of its source and of its destination; of nobody here: open
};

// What the agent is told of a packet that a policy let not pass.
struct denial {
	struct tuple tuple; // of an ICMP packet, the type is the source port, in network byte order
	__u64 ruleset;	    // that denied it
	__u32 decision;
	__u32 ifindex; // of the pod's link
	__u32 ingress; // 1: into the pod
	__u32 unused;
};

struct denied_key {
	__u64 ruleset;
	__u32 decision;
	__u32 ifindex;
};

// A packet that is judged.
struct judging {
	struct recent packet;
	struct tuple reverse; // that of its answers
	struct denial denial;
	__u32 ifindex[2]; // the links of its source and of its destination
	_Bool late[2];	  // they are: see struct endpoint
	_Bool begins;	  // it may be the first of a flow
	_Bool certain;	  // and cannot be an answer
	__u32 home;	  // 1: it is between a pod and its own node
	__u32 way;	  // enum way: what the kernel's table says of it
	enum judged_flags flags;
};

struct work {
	struct tuple tuple, reply_tuple;
	struct flow forward, reply;
	struct backend backend;
	__u32 slot; // the backend's, from the first one of the choice
	struct judging judging;
};
