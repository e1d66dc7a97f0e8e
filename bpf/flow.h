// SPDX-License-Identifier: Apache-2.0
//
// Translated flows: found, begun, remembered. Only packets to frontends that no socket program turned into plain ones
// have any, and the answers to them.
#pragma once

#include "service.h"

enum {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,

	PORT_TRIES = 8, // for a source port that no other flow to the same backend has
	FIRST_PORT = 32768,

	COPY_TRIES = 3,
	SILENT_TICKS = 2, // a backend that is there has answered by then
};

// A tick is 2^30 ns, a little more than a second.
static __always_inline __u32 now_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> 30;
}

static __always_inline struct work *get_work(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&work, &zero);
}

static __always_inline __u32 *mark_of(const struct addr *a)
{
	__u32 hash = a->word[3] * 0x9e3779b1 ^ a->word[2] * 0x85ebca6b ^ a->word[1] ^ a->word[0];
	__u32 index = hash >> 16;

	return bpf_map_lookup_elem(&marks, &index);
}

static __always_inline void mark(const struct addr *a, __u32 now)
{
	__u32 *m = mark_of(a);

	if (m && *m != now)
		*m = now;
}

// May a packet to this address belong to a translated flow?
static __always_inline _Bool is_marked(const struct addr *a)
{
	__u32 *m = mark_of(a);

	return m && *m;
}

// The tuple of the answers to what a flow makes of its packets.
static __always_inline void set_answer(struct tuple *t, const struct flow *f, __u8 proto)
{
	t->src = f->dst;
	t->dst = f->src;
	t->sport = f->dport;
	t->dport = f->sport;
	t->proto = proto;
	__builtin_memset(t->unused, 0, sizeof(t->unused));
}

// What a packet of a new flow to the chosen backend becomes.
static __always_inline void set_forward(struct work *w, const struct packet *p, const struct frontend *f)
{
	set_tuple(&w->tuple, p);
	w->forward = (struct flow){.src = p->src,
				   .dst = w->backend.addr,
				   .sport = p->sport,
				   .dport = w->backend.port,
				   .flags = FLOW_SEEN,
				   .used = now_ticks(),
				   .owner = f->owner};
}

static __always_inline __u8 tcp_flags(struct __sk_buff *ctx, const struct packet *p)
{
	__u8 flags = p->tcp;

	if (p->proto == IPPROTO_TCP && p->fragment && p->first)
		bpf_skb_load_bytes(ctx, p->l4 + TCP_FLAGS, &flags, 1);
	return flags;
}

// The ports, or what stands for them: of an ICMP packet its number, if it has one, and its type; zero where there are
// none. What a fragment is that goes on with another extension header, nobody knows here.
static __always_inline int load_ports(struct __sk_buff *ctx, const struct packet *p, struct fragment *ports)
{
	__be16 icmp[4];

	*ports = (struct fragment){};
	if (has_ports(p->proto))
		return bpf_skb_load_bytes(ctx, p->l4, ports, sizeof(*ports));
	if (!is_icmp(p))
		return is_extension(p->proto) ? -1 : 0;
	if (bpf_skb_load_bytes(ctx, p->l4, icmp, sizeof(icmp)) < 0)
		return -1;
	ports->sport = icmp[2];
	ports->dport = icmp[0];
	return 0;
}

// Fragments have the ports of the first one of them, which must come first.
__noinline int find_ports(struct __sk_buff *ctx, struct packet *p)
{
	struct fragment_key key = {};
	struct fragment ports, *found;

	if (!p || !p->fragment || p->ports)
		return GO_ON;
	key = (struct fragment_key){.src = p->src, .dst = p->dst, .id = p->id, .proto = p->proto};
	if (p->first) {
		if (load_ports(ctx, p, &ports) < 0)
			return -DROP_FRAGMENT;
		bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
	} else {
		found = bpf_map_lookup_elem(&fragments, &key);
		if (!found)
			return -DROP_FRAGMENT;
		ports = *found;
	}
	p->sport = ports.sport;
	p->dport = ports.dport;
	p->ports = 1;
	return GO_ON;
}

// Copies a flow of the map that makes room, where an entry may become another's at any moment: one that is still in its
// place after it was copied was this flow's all the time.
static __always_inline _Bool copy_opening(const struct tuple *t, struct flow *into)
{
	for (int i = 0; i < COPY_TRIES; i++) {
		struct flow *f = bpf_map_lookup_elem(&opening, t);

		if (!f)
			return 0;
		*into = *f;
		if (bpf_map_lookup_elem(&opening, t) == f)
			return 1;
	}
	return 0;
}

// Finds the flow of w->tuple and copies it to w->forward. Settled: where it is, NULL: it is opening.
static __always_inline _Bool find_flow(struct work *w, struct flow **settled)
{
	*settled = bpf_map_lookup_elem(&flows, &w->tuple);
	if (!*settled)
		return copy_opening(&w->tuple, &w->forward);
	w->forward = **settled;
	return 1;
}

// Writes down when the flow was used last, and its flags. An opening one may have gone.
static __always_inline void touch_flow(struct work *w, struct flow *settled)
{
	if (settled) {
		settled->used = w->forward.used;
		settled->flags = w->forward.flags;
	} else {
		bpf_map_update_elem(&opening, &w->tuple, &w->forward, BPF_EXIST);
	}
}

// Of a flow that another node serves, there is one direction here.
static __always_inline int settle_handed(struct work *w)
{
	if (!(w->forward.flags & FLOW_ANSWERED))
		return GO_ON;
	if (bpf_map_update_elem(&flows, &w->tuple, &w->forward, BPF_ANY) < 0)
		return -DROP_FLOWS_FULL;
	bpf_map_delete_elem(&opening, &w->tuple);
	return GO_ON;
}

// A flow that has had an answer, and a packet after it, is no flood's: it gets a place of its own.
static __always_inline int settle_flow(struct work *w)
{
	if (w->forward.flags & FLOW_HANDED)
		return settle_handed(w);
	set_answer(&w->reply_tuple, &w->forward, w->tuple.proto);
	if (!copy_opening(&w->reply_tuple, &w->reply) || !(w->reply.flags & FLOW_SEEN))
		return GO_ON;
	if (bpf_map_update_elem(&flows, &w->reply_tuple, &w->reply, BPF_ANY) < 0)
		return -DROP_FLOWS_FULL;
	if (bpf_map_update_elem(&flows, &w->tuple, &w->forward, BPF_ANY) < 0) {
		bpf_map_delete_elem(&flows, &w->reply_tuple);
		return -DROP_FLOWS_FULL;
	}
	bpf_map_delete_elem(&opening, &w->reply_tuple);
	bpf_map_delete_elem(&opening, &w->tuple);
	return GO_ON;
}

// A SYN begins another flow with the same ports where one end has closed the last one, or its backend answers no more.
// Where it does answer, the SYN comes late, or is a lie: the backend tells the client, as if nobody were in between.
static __always_inline _Bool begins_anew(struct work *w, const struct flow *settled, __u8 tcp)
{
	_Bool reply = w->forward.flags & FLOW_REPLY;
	struct flow *other;

	tcp &= TCP_SYN | TCP_ACK;
	if (tcp != (reply ? TCP_SYN | TCP_ACK : TCP_SYN))
		return 0;
	if (!settled || w->forward.flags & (FLOW_CLOSING | FLOW_HANDED))
		return settled || (w->forward.flags & FLOW_CLOSING && !reply);
	set_answer(&w->reply_tuple, &w->forward, w->tuple.proto);
	other = bpf_map_lookup_elem(&flows, &w->reply_tuple);
	if (!other || other->flags & FLOW_CLOSING)
		return 1;
	return !reply && (__s32)(w->forward.used - other->used) > SILENT_TICKS;
}

static __always_inline void forget_flow(struct work *w)
{
	set_answer(&w->reply_tuple, &w->forward, w->tuple.proto);
	bpf_map_delete_elem(&flows, &w->tuple);
	bpf_map_delete_elem(&flows, &w->reply_tuple);
	bpf_map_delete_elem(&opening, &w->tuple);
	bpf_map_delete_elem(&opening, &w->reply_tuple);
}

enum known { UNKNOWN, KNOWN, FULL };

// Is the packet of a flow that there is? Then the work's forward says what it becomes.
__noinline int recall_flow(struct __sk_buff *ctx, struct packet *p)
{
	struct work *w = get_work();
	__u32 now = now_ticks();
	struct flow *settled;
	__u8 tcp;

	if (!p || !w)
		return UNKNOWN;
	set_tuple(&w->tuple, p);
	if (!find_flow(w, &settled))
		return UNKNOWN;
	tcp = tcp_flags(ctx, p);
	if (begins_anew(w, settled, tcp)) {
		forget_flow(w);
		return UNKNOWN;
	}
	w->forward.flags |= FLOW_SEEN | (tcp & (TCP_FIN | TCP_RST) ? FLOW_CLOSING : 0);
	if (w->forward.flags & FLOW_HANDED && (tcp & (TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK)
		w->forward.flags |= FLOW_ANSWERED; // the answer need not have come by here
	w->forward.used = now;
	touch_flow(w, settled);
	if (w->forward.flags & FLOW_REPLY)
		return KNOWN;
	mark(&w->forward.src, now); // where answers to it go
	mark(&w->tuple.dst, now);
	return !settled && settle_flow(w) < 0 ? FULL : KNOWN;
}

// Remembers a new flow, w->forward of w->tuple, so that its answers find the way back. Where another flow to the same
// backend has the client's port already, this one gets another: the only case in which a port is changed. By: the node
// that handed it over, NULL: none.
static __always_inline int remember_flow(struct packet *p, struct work *w, const struct addr *by)
{
	w->reply = (struct flow){.src = p->dst,
				 .dst = p->src,
				 .sport = p->dport,
				 .dport = p->sport,
				 .flags = FLOW_REPLY,
				 .used = w->forward.used,
				 .owner = w->forward.owner};
	if (by) {
		w->reply.flags |= FLOW_RETURN;
		w->reply.node = *by;
	}
#pragma unroll // Linux 6.1 takes some loops for endless
	for (int i = 0; i < PORT_TRIES; i++) {
		set_answer(&w->reply_tuple, &w->forward, p->proto);
		if (!bpf_map_lookup_elem(&flows, &w->reply_tuple) &&
		    bpf_map_update_elem(&opening, &w->reply_tuple, &w->reply, BPF_NOEXIST) == 0) {
			if (bpf_map_update_elem(&opening, &w->tuple, &w->forward, BPF_ANY) < 0)
				break;
			mark(&w->forward.src, w->forward.used);
			mark(&p->dst, w->forward.used);
			return GO_ON;
		}
		w->forward.sport = bpf_htons(FIRST_PORT + (bpf_get_prandom_u32() & 0x7fff));
	}
	return -DROP_FLOWS_FULL;
}
