// SPDX-License-Identifier: Apache-2.0
//
// Every map: key, value, who writes, who reads, size. All are pinned. The agent is the only writer where nothing
// else is said.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ruletypes.h"

// Addresses of this node: its pods' and its own. Written last when a pod comes, deleted first when it goes.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct endpoint);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC); // a reader never sees another key's value
} endpoints SEC(".maps");

// Prefixes of the other nodes. Three or four rows a node.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct remote_key);
	__type(value, struct remote);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} remotes SEC(".maps");

// The configuration: one row.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct config);
	__uint(max_entries, 1);
} configuration SEC(".maps");

// Packets and bytes by outcome. Written by the programs, read by the agent.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum outcome);
	__type(value, struct count);
	__uint(max_entries, OUTCOMES);
} counts SEC(".maps");

// Addresses taken without a link of ours. No program reads it.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct reservation);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} reserved SEC(".maps");

// Ports of this node that lead to pods. Written before the pod's link is made, deleted when it is gone. No program
// reads it.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct hostport_key);
	__type(value, struct hostport);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} hostports SEC(".maps");

// What clients use, and who serves it. One write of a row here swaps all its backends.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} frontends SEC(".maps");

// Complete before a frontend names their generation; gone only after none has for a while.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct backend_key);
	__type(value, struct backend);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} backends SEC(".maps");

// Of a generation, for clients outside: the remainder of a flow's hash → the slot, counted from the first that they may
// have. All nodes have the same (Maglev), and most of it stays when a backend goes.
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__type(key, __u64);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__type(key, __u32);
			__type(value, __u32);
			__uint(max_entries, 1);
			__uint(map_flags, BPF_F_INNER_MAP); // each has a length of its own
		});
} rings SEC(".maps");

// The same the other way round, for the frontends that ask: those of UDP, and those with affinity.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct member_key);
	__type(value, struct member);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} members SEC(".maps");

// Who may use load balancers' addresses, where not everybody may.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct source_range_key);
	__type(value, __u32);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} source_ranges SEC(".maps");

// Written by the programs. The least recently used make room.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
	__uint(max_entries, 131072);
} affinities SEC(".maps");

// Of connected sockets. Written by the programs; gone with the socket.
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct translation);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} connected SEC(".maps");

// Of sockets that send without being connected.
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct translations);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} datagrams SEC(".maps");

// Translated flows, both directions. Written by the programs, which never make room; the agent removes what has ended.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct flow);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} flows SEC(".maps");

// Those that have not yet had a packet each way and one more. They make room for each other, so that a flood of them
// costs no other flow its place.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct tuple);
	__type(value, struct flow);
	__uint(max_entries, 65536);
} opening SEC(".maps");

// When an address last had to do with a translated flow as somebody's destination, by its hash, in ticks; 0: never.
// Packets to all others need not be looked up. Written by the programs; the agent clears what is old.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 65536);
} marks SEC(".maps");

// Ports of packets that come in fragments, from their first to their last. Written by the programs.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(max_entries, 8192);
} fragments SEC(".maps");

// The class of an address that some policy's selector or block matches, 64-bit.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, __u64);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} classes SEC(".maps");

// The class of the addresses of a prefix that have none of their own.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct class_key);
	__type(value, __u64);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} blocks SEC(".maps");

// The rows of rulesets. A ruleset is complete before an endpoint names it, and goes only after none has for a while.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct rule_key);
	__type(value, struct rule);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} rules SEC(".maps");

// Counts changes of what packets are judged by: recent verdicts of an earlier epoch are worth nothing.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} epoch SEC(".maps");

// Flows with an isolated end here. Written by the programs, which never make room; the agent removes what has ended.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct judged);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} judged_flows SEC(".maps");

// Those that have not yet had a packet each way and one more, as in opening.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct tuple);
	__type(value, struct judged);
	__uint(max_entries, 65536);
} judged_opening SEC(".maps");

// Verdicts of a moment ago, by a packet's hash. Written by the programs.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct recent);
	__uint(max_entries, 4096);
} recents SEC(".maps");

// Packets that policies did not let pass: by pod and decision, and each as it happens. Written by the programs.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct denied_key);
	__type(value, __u64);
	__uint(max_entries, 16384);
} denied SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144);
} denials SEC(".maps");

// Room to put a flow together: the programs' stack is small.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct work);
	__uint(max_entries, 1);
} work SEC(".maps");
