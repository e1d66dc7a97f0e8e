// SPDX-License-Identifier: Apache-2.0
//
// Every map: key, value, who writes, who reads, size. All are pinned; the agent is the only writer of all but counts.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

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
