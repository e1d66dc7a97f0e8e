// SPDX-License-Identifier: Apache-2.0
//
// Clients outside, and a backend on another node. The node that the client chose hands the packet, unchanged, to the
// backend's node through the tunnel; that one answers for the frontend, directly where the fabric carries addresses
// that are not the sender's own (it carries pods'), else back through the first node. Nobody's address is rewritten on
// the way, so the backend sees the client's.
#pragma once

#include "related.h"

// What such packets have for a source MAC address, since nobody needs one in the tunnel: who sends it why.
struct handover {
	__u8 local; // 0x06: a locally administered address, and not the tunnel device's own
	__u8 kind;
	__be32 slot; // the first node's choice
} __attribute__((packed));

enum { HANDED_OVER = 'h', HANDED_BACK = 'b', LOCAL_MAC = 0x06, HANDOVER_VNI = 1 }; // the VNI after the tunnel's own

static __always_inline int send_handover(struct __sk_buff *ctx, const struct addr *node, __u8 kind, __u32 slot)
{
	struct handover from = {.local = LOCAL_MAC, .kind = kind, .slot = bpf_htonl(slot)};
	struct mac to = {{0x02, 'p', 'o', 'l', 'd', 'r'}};
	struct config *cfg = get_config();

	if (!cfg || !cfg->tunnel_ifindex || set_tunnel_key(ctx, node, cfg->tunnel_vni + HANDOVER_VNI) < 0 ||
	    set_macs(ctx, &to, (struct mac *)&from) < 0)
		return -DROP_NO_TUNNEL_PEER;
	bpf_redirect(cfg->tunnel_ifindex, 0);
	return TO_TUNNEL;
}

// A packet of a flow that has been handed over goes the way of those before it.
static __always_inline int hand_on(struct __sk_buff *ctx, struct packet *p, struct work *w)
{
	if (p->ttl <= 1)
		return TO_STACK;
	if (route_hop(ctx, p) < 0)
		return -DROP_MALFORMED;
	return send_handover(ctx, &w->forward.node, HANDED_OVER, w->forward.slot);
}

static __always_inline int remember_handed(struct packet *p, struct work *w)
{
	mark(&p->dst, w->forward.used);
	return bpf_map_update_elem(&opening, &w->tuple, &w->forward, BPF_ANY);
}

// An answer, on the backend's node.
__noinline int go_back(struct __sk_buff *ctx, struct packet *p)
{
	struct work *w = get_work();
	struct remote *r;

	if (!p || !w)
		return -DROP_MALFORMED;
	r = find_remote(&w->forward.node);

	if (r && r->kind == REMOTE_NATIVE)
		return to_fabric(ctx, p);
	if (route_hop(ctx, p) < 0)
		return -DROP_MALFORMED;
	return send_handover(ctx, &w->forward.node, HANDED_BACK, 0);
}

// The backend that the first node chose, by its slot. Where this node knows of other backends by now, any that is here.
static __always_inline _Bool find_here(const struct frontend *f, __u32 slot, struct backend *b)
{
#pragma unroll // Linux 6.1 takes some loops for endless
	for (__u32 i = 0; i < 16 && i < f->outside.count; i++) {
		struct backend_key key = {.generation = f->generation,
					  .slot = f->outside.first + (slot + i) % f->outside.count};
		struct backend *found = bpf_map_lookup_elem(&backends, &key);

		if (found && bpf_map_lookup_elem(&endpoints, &found->addr)) {
			*b = *found;
			return 1;
		}
	}
	return 0;
}

// A packet that another node has handed over, for a backend of this one. GO_ON: it is translated.
__noinline int take_over(struct __sk_buff *ctx, struct packet *p, struct addr *node)
{
	struct work *w = get_work();
	struct handover *from;
	struct frontend *f;
	__u8 tcp;

	if (!p || !w || !node)
		return -DROP_UNKNOWN_TUNNEL_PEER;
	from = (struct handover *)&p->from;
	if (find_ports(ctx, p) < 0 || !p->ports)
		return -DROP_FRAGMENT;
	switch (recall_flow(ctx, p)) {
	case FULL:
		return -DROP_FLOWS_FULL;
	case KNOWN:
		return w->forward.flags & FLOW_HANDED ? hand_on(ctx, p, w) : rewrite(ctx, p);
	}
	tcp = tcp_flags(ctx, p);
	f = find_frontend(&p->dst, p->dport, p->proto);
	if (!f || (p->proto == IPPROTO_TCP && (tcp & (TCP_SYN | TCP_ACK)) != TCP_SYN) ||
	    !find_here(f, bpf_ntohl(from->slot), &w->backend))
		return -DROP_NO_LOCAL_BACKEND;
	set_forward(w, p, f);
	return remember_flow(p, w, node) < 0 ? -DROP_FLOWS_FULL : rewrite(ctx, p);
}

// A packet that comes back, on the node that handed its flow over: out to the client, if it is one of that flow.
__noinline int take_back(struct __sk_buff *ctx, struct packet *p, struct addr *node)
{
	struct work *w = get_work();
	struct flow *settled;
	struct quote q = {};

	if (!p || !w || !node)
		return -DROP_UNKNOWN_TUNNEL_PEER;
	if (is_icmp_error(p)) {
		if (read_quote(ctx, p, &q) < 0)
			return -DROP_MALFORMED;
		set_quoted(&w->tuple, &q, 0);
	} else {
		if (find_ports(ctx, p) < 0 || !p->ports)
			return -DROP_FRAGMENT;
		set_tuple(&w->reply_tuple, p);
		turn_round(&w->tuple, &w->reply_tuple);
	}
	if (!find_flow(w, &settled) || !(w->forward.flags & FLOW_HANDED) || !addr_equal(&w->forward.node, node))
		return -DROP_UNKNOWN_TUNNEL_PEER;
	w->forward.used = now_ticks();
	w->forward.flags |= FLOW_ANSWERED;
	touch_flow(w, settled);
	return to_fabric(ctx, p);
}
