// SPDX-License-Identifier: Apache-2.0
//
// From a frontend to a backend: the choice, for sockets and packets alike.
#pragma once

#include "deliver.h"

enum { NS_PER_S = 1000000000 };

static __always_inline _Bool backend_equal(const struct backend *a, const struct backend *b)
{
	return addr_equal(&a->addr, &b->addr) && a->port == b->port;
}

// Is this an address with a node port? All nodes' are; but where only backends of the node that was asked may answer,
// that node must be asked.
static __always_inline _Bool has_node_port(const struct frontend *f, const struct addr *a)
{
	struct addr key = *a; // Linux 6.1 wants keys on the stack
	struct endpoint *ep = bpf_map_lookup_elem(&endpoints, &key);
	struct remote *r;

	if (ep)
		return !ep->ifindex;
	r = find_remote(a);
	return r && r->host && !(f->flags & FRONTEND_OUTSIDE_LOCAL);
}

// The frontend of an address and port: its own, else the node port, which every address of every node has.
static __always_inline struct frontend *find_frontend(const struct addr *a, __be16 port, __u8 proto)
{
	struct frontend_key key = {.addr = *a, .port = port, .proto = proto};
	struct frontend *f = bpf_map_lookup_elem(&frontends, &key);

	if (f)
		return f->flags & FRONTEND_ADDRESS ? NULL : f;
	key.addr = addr_is_v4(a) ? addr_v4(0) : (struct addr){};
	f = bpf_map_lookup_elem(&frontends, &key);
	return f && has_node_port(f, a) ? f : NULL;
}

// Is this an address that only a Service can have, whether one does or not?
static __always_inline _Bool is_service_address(const struct config *cfg, const struct addr *a)
{
	return prefix_has(&cfg->service_cidr[0], a) || prefix_has(&cfg->service_cidr[1], a);
}

// Does the backend serve a client of the frontend? NULL: no, or no more.
static __always_inline struct member *find_member(const struct frontend *f, const struct backend *b, _Bool outside)
{
	struct member_key key = {.generation = f->generation, .backend = *b};
	struct member *m = bpf_map_lookup_elem(&members, &key);
	__u32 local = outside ? FRONTEND_OUTSIDE_LOCAL : FRONTEND_INSIDE_LOCAL;

	return m && m->sets & (f->flags & local ? MEMBER_LOCAL : MEMBER_CLUSTER) ? m : NULL;
}

// The backend that the client had last, if it may still have it.
static __always_inline _Bool recall(const struct frontend *f, const struct affinity_key *key, _Bool outside,
				    struct backend *b, __u32 *slot)
{
	struct affinity *last = bpf_map_lookup_elem(&affinities, key);
	__u64 now = bpf_ktime_get_boot_ns();
	struct affinity copy;
	struct member *m;

	if (!last)
		return 0;
	copy = *last; // before it is asked about: the entry may become another client's at any moment
	if ((__s64)(now - copy.used) >= (__s64)f->affinity * NS_PER_S)
		return 0;
	m = find_member(f, &copy.backend, outside);
	if (!m)
		return 0;
	last->used = now;
	*b = copy.backend;
	*slot = m->slot;
	return 1;
}

// The slot for a flow from outside, by its hash.
static __always_inline __u32 find_slot(const struct frontend *f, __u32 count, __u32 hash)
{
	void *ring = f->ring ? bpf_map_lookup_elem(&rings, &f->generation) : NULL;
	__u32 index = f->ring ? hash % f->ring : 0;
	__u32 *slot = ring ? bpf_map_lookup_elem(ring, &index) : NULL;

	return (slot ? *slot : hash) % count;
}

enum chosen { CHOSEN, REFUSE, DROP };

// Chooses a backend for a client, and says which slot of the choice it is. Random is whatever spreads: the slot is its
// remainder.
static __always_inline enum chosen choose(const struct frontend *f, const struct addr *client, _Bool outside,
					  __u32 random, struct backend *b, __u32 *slot)
{
	const struct choice *from = outside ? &f->outside : &f->inside;
	struct affinity_key who = {.owner = f->owner, .client = *client};
	struct backend_key key = {.generation = f->generation};
	struct backend *found;

	if (!from->count)
		return f->flags & (outside ? FRONTEND_OUTSIDE_DROP : FRONTEND_INSIDE_DROP) ? DROP : REFUSE;
	if (f->affinity && recall(f, &who, outside, b, slot))
		return CHOSEN;
	*slot = outside ? find_slot(f, from->count, random) : random % from->count;
	key.slot = from->first + *slot;
	found = bpf_map_lookup_elem(&backends, &key);
	if (!found)
		return DROP; // only if somebody else's hands were in the map
	*b = *found;
	if (f->affinity) {
		struct affinity now = {.used = bpf_ktime_get_boot_ns(), .backend = *b};

		bpf_map_update_elem(&affinities, &who, &now, BPF_ANY);
	}
	return CHOSEN;
}

// May this source use the load balancer's address?
static __always_inline _Bool is_admitted(const struct frontend *f, const struct addr *src)
{
	struct source_range_key key = {.prefixlen = 32 + 64 + 128, .owner = f->owner, .addr = *src};

	return !(f->flags & FRONTEND_SOURCE_RANGES) || bpf_map_lookup_elem(&source_ranges, &key);
}
