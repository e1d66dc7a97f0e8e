// SPDX-License-Identifier: Apache-2.0
//
// The packet path of Services: packets to frontends, and the answers to them. Both directions of a flow meet on the
// node where it was translated.
#pragma once

#include "handover.h"
#include "leave.h"
#include "unreachable.h"

// Which slot: by chance inside the cluster; for clients outside by the flow alone, the same on every node.
static __always_inline __u32 spread(const struct packet *p, _Bool outside)
{
	__u32 hash = p->src.word[3] ^ p->src.word[2] ^ p->src.word[1] ^ p->src.word[0];

	if (!outside)
		return bpf_get_prandom_u32();
	hash = (hash ^ p->sport << 16 ^ p->dport) * 0x9e3779b1;
	hash = (hash ^ hash >> 15) * 0x85ebca6b;
	return hash ^ hash >> 13;
}

enum begun { NOT_SERVED, BEGUN, REFUSED_HERE };

// A packet to no frontend: to a Service's address all the same, to one that could be, or to somebody else.
static __always_inline int serve_nobody(struct packet *p, struct config *cfg)
{
	struct frontend_key address = {.addr = p->dst};

	if (bpf_map_lookup_elem(&frontends, &address))
		return REFUSED_HERE;
	return is_service_address(cfg, &p->dst) ? -DROP_NO_SUCH_SERVICE : NOT_SERVED;
}

// Is this an address of the node, or of one of its pods?
static __always_inline _Bool is_here(struct config *cfg, const struct addr *a)
{
	return bpf_map_lookup_elem(&endpoints, a) ||
	       (cfg->others_pods && (prefix_has(&cfg->pod_cidr[0], a) || prefix_has(&cfg->pod_cidr[1], a)));
}

// A backend that is not here, for a client outside: its node answers in this one's name. Where it cannot be handed
// the packet, or is no node at all, answers must come back here: the client's address is lost.
static __always_inline void serve_elsewhere(struct packet *p, struct work *w, struct config *cfg)
{
	struct remote *r = find_remote(&w->backend.addr);

	if (r && cfg->tunnel_ifindex) {
		w->forward.flags |= FLOW_HANDED;
		w->forward.node = r->node;
		w->forward.slot = w->slot;
	} else {
		w->forward.src = cfg->node[!addr_is_v4(&p->dst)];
	}
}

// Begins a flow to a frontend, as an enum begun or minus a drop's reason: the work's forward says what the packet
// becomes.
__noinline int begin_flow(struct __sk_buff *ctx, struct packet *p, __u32 outside)
{
	struct config *cfg = get_config();
	struct work *w = get_work();
	struct frontend *f;
	__u8 tcp;

	if (!p || !w || !cfg)
		return NOT_SERVED;
	f = find_frontend(&p->dst, p->dport, p->proto);
	if (!f)
		return serve_nobody(p, cfg);
	if (!is_admitted(f, &p->src))
		return -DROP_SOURCE_RANGE;
	tcp = tcp_flags(ctx, p);
	// Of a connection that nobody here knows; but another node may have, and by the ring this one finds the same
	// backend.
	if (p->proto == IPPROTO_TCP && (tcp & (TCP_SYN | TCP_ACK)) != TCP_SYN && !(outside && f->ring))
		return REFUSED_HERE;
	switch (choose(f, &p->src, outside, spread(p, outside), &w->backend, &w->slot)) {
	case REFUSE:
		return REFUSED_HERE;
	case DROP:
		return -DROP_NO_LOCAL_BACKEND;
	case CHOSEN:
		break;
	}
	set_forward(w, p, f);
	if (addr_equal(&w->backend.addr, &p->src)) // a client that is its own backend would answer itself
		w->forward.src = p->dst;
	else if (outside && !is_here(cfg, &w->backend.addr))
		serve_elsewhere(p, w, cfg);
	if ((w->forward.flags & FLOW_HANDED ? remember_handed(p, w) : remember_flow(p, w, NULL)) < 0)
		return -DROP_FLOWS_FULL;
	return BEGUN;
}

// An answer to a pod of this node which has to go through the stack is translated when it comes out of it (to_pod): its
// new source is the frontend, which the stack would take for a lie. So are all answers of another plugin's pods.
static __always_inline _Bool comes_later(const struct packet *p, const struct work *w)
{
	struct addr dst = p->dst; // Linux 6.1 wants keys on the stack
	struct config *cfg = get_config();
	struct endpoint *ep;

	if (!(w->forward.flags & FLOW_REPLY) || !addr_equal(&p->dst, &w->forward.dst))
		return 0;
	ep = bpf_map_lookup_elem(&endpoints, &dst);
	if (cfg && cfg->others_pods)
		return ep ? ep->ifindex != 0 : p->shaped;
	return ep && ep->ifindex && (ep->shaped || p->shaped || p->options || p->ttl <= 1);
}

// A packet of a flow that there is: translated, or handed to the node that does it.
static __always_inline int go_along(struct __sk_buff *ctx, struct packet *p, struct work *w)
{
	if (w->forward.flags & FLOW_HANDED)
		return hand_on(ctx, p, w);
	return p->served || comes_later(p, w) ? GO_ON : rewrite(ctx, p);
}

// The whole of it. to_pod: the packet is for a pod, so no frontend's; outside: it is from no pod of this node.
// GO_ON: it goes on to p->dst; where it was translated, p->served says so.
__noinline int serve(struct __sk_buff *ctx, struct packet *p, __u32 to_pod, __u32 outside)
{
	struct config *cfg = get_config();
	struct work *w = get_work();
	int rc = UNKNOWN;
	_Bool marked;

	if (!p || !w || !cfg)
		return GO_ON;
	marked = is_marked(&p->dst);
	if (to_pod && !marked)
		return GO_ON;
	if (find_ports(ctx, p) < 0)
		return marked || is_service_address(cfg, &p->dst) ? -DROP_FRAGMENT : GO_ON;
	if (marked)
		rc = is_icmp_error(p) ? follow_error(ctx, p) : recall_flow(ctx, p);
	if (rc < 0)
		return rc;
	if (rc == FULL)
		return -DROP_FLOWS_FULL;
	if (rc == KNOWN)
		return go_along(ctx, p, w);
	rc = to_pod ? NOT_SERVED : begin_flow(ctx, p, outside);
	if (rc == REFUSED_HERE)
		return refuse(ctx, p);
	return rc == BEGUN ? go_along(ctx, p, w) : rc;
}

enum { LOOPBACK = 1 }; // its index in every network namespace

// To a process of the node itself that asked a Service. The stack takes its own addresses for a lie when they come from
// anywhere but here.
static __always_inline int to_node(struct __sk_buff *ctx)
{
	struct mac none[2] = {};

	if (bpf_skb_store_bytes(ctx, 0, none, sizeof(none), 0) < 0)
		return -DROP_MALFORMED;
	bpf_redirect(LOOPBACK, BPF_F_INGRESS);
	return TO_NODE;
}

// Where a translated packet goes. An answer's source is the frontend, which the stack would take for a lie, so it
// leaves without it.
__noinline int deliver_served(struct __sk_buff *ctx, struct packet *p)
{
	struct config *cfg = get_config();
	struct work *w = get_work();
	struct endpoint *ep;
	struct remote *r;
	struct addr dst;
	_Bool answer;
	int rc;

	if (!p || !w || !cfg)
		return TO_STACK;
	answer = w->forward.flags & FLOW_REPLY;
	dst = p->dst;
	ep = bpf_map_lookup_elem(&endpoints, &dst);
	if (is_isolated(ctx, p, cfg, ep)) {
		rc = judge(ctx, p, ep);
		if (rc != GO_ON)
			return rc;
	}
	if (answer && ep && !ep->ifindex)
		return to_node(ctx);
	if (p->ttl <= 1 || p->options || ((p->shaped || cfg->others_pods) && !answer) ||
	    (ep && (!ep->ifindex || ep->shaped)))
		return TO_STACK;
	if (ep)
		return redirect_to_pod(ctx, p, ep);
	if (answer && w->forward.flags & FLOW_RETURN)
		return go_back(ctx, p);
	r = find_remote(&p->dst);
	if (r && !(answer && r->host))
		return to_remote(ctx, p, r);
	return answer ? to_fabric(ctx, p) : TO_STACK;
}
