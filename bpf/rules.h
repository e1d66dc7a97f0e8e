// SPDX-License-Identifier: Apache-2.0
//
// What rulesets say, and what is told of packets that they do not let pass.
#pragma once

#include "flow.h"

enum {
	PARTS = 256,		  // of a row
	ROW_MISSING = 0x7ffffffe, // not a decision: another row is asked
	OTHERS = 0,		  // the class of those that have none
};

// One end of the packet, 0: its source, 1: its destination. Ep: its row, NULL: it is no pod of this node.
static __always_inline void set_end(struct judging *j, int end, const struct endpoint *ep)
{
	j->packet.egress[end] = ep ? ep->egress : RULESET_OPEN;
	j->packet.ingress[end] = ep ? ep->ingress : RULESET_OPEN;
	j->ifindex[end] = ep ? ep->ifindex : 0;
	j->late[end] = ep && ep->late;
}

// Notes what an isolated sender is judged by, before its row is out of sight.
static __always_inline void set_sender(struct packet *p, const struct endpoint *ep)
{
	struct work *w = get_work();

	if (w)
		set_end(&w->judging, 0, ep);
	p->isolated = 1;
}

static __always_inline __u64 class_of(const struct addr *a)
{
	struct class_key key = {.prefixlen = 128, .addr = *a};
	__u64 *class = bpf_map_lookup_elem(&classes, &key.addr);
	struct config *cfg = get_config();

	if (!class && cfg && cfg->blocks)
		class = bpf_map_lookup_elem(&blocks, &key);
	return class ? *class : OTHERS;
}

// The decision of one row on a port. A row that ends too soon lets nothing pass.
__noinline __u32 read_row(__u64 ruleset, __u64 class, __u32 proto, __u32 port)
{
	struct rule_key key = {.ruleset = ruleset, .class = class, .proto = proto};

	for (int part = 0; part < PARTS; part++) {
		struct rule *r;

		key.part = part;
		r = bpf_map_lookup_elem(&rules, &key);
		if (!r)
			return part ? DECISION_NONE : ROW_MISSING;
#pragma unroll
		for (__u32 i = 0; i < SPANS; i++)
			if (port <= r->spans[i].last)
				return port < r->spans[i].first ? DECISION_NONE : r->spans[i].decision;
	}
	return DECISION_NONE;
}

// The decision of a ruleset on a peer. The class's own rows come before those of all others, and those of a protocol
// before those of all protocols.
__noinline __u32 ask_ruleset(__u64 ruleset, struct addr *peer, __u32 proto, __u32 port)
{
	__u32 decision = ROW_MISSING;
	__u64 class;

	if (ruleset == RULESET_OPEN)
		return DECISION_ALLOW;
	if (ruleset == RULESET_CLOSED || !peer)
		return DECISION_NONE;
	class = class_of(peer);
#pragma unroll
	for (int i = 0; i < 4; i++)
		if (decision == ROW_MISSING)
			decision = read_row(ruleset, i < 2 ? class : OTHERS, i % 2 ? 0 : proto, port);
	return decision == ROW_MISSING ? DECISION_NONE : decision;
}

static __always_inline void count_denied(const struct denial *d)
{
	struct denied_key key = {.ruleset = d->ruleset, .decision = d->decision, .ifindex = d->ifindex};
	__u64 zero = 0, *n = bpf_map_lookup_elem(&denied, &key);

	if (!n) {
		bpf_map_update_elem(&denied, &key, &zero, BPF_NOEXIST);
		n = bpf_map_lookup_elem(&denied, &key);
	}
	if (n)
		__sync_fetch_and_add(n, 1);
}

// Tells of the packet in the work's denial. Where nobody listens, or not fast enough, only the counter knows.
__noinline int deny(struct packet *p)
{
	struct work *w = get_work();
	struct denial *d;

	if (!p || !w)
		return -DROP_INGRESS_DENIED;
	d = &w->judging.denial;
	d->tuple = w->judging.packet.tuple;
	d->unused = 0;
	if (is_icmp(p)) {
		d->tuple.sport = bpf_htons(p->icmp_type);
		d->tuple.dport = 0;
	}
	count_denied(d);
	bpf_ringbuf_output(&denials, d, sizeof(*d), 0);
	return d->ingress ? -DROP_INGRESS_DENIED : -DROP_EGRESS_DENIED;
}
