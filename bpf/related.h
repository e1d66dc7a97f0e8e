// SPDX-License-Identifier: Apache-2.0
//
// ICMP errors about packets of translated flows: both the error's own addresses and those of the packet that it quotes
// become what the receiver knows.
#pragma once

#include "flow.h"
#include "rewrite.h"

// The quoted packet went the other way, as its receiver saw it. An IPv4 header's own checksum makes good for its
// addresses, so an ICMP error's changes by the ports alone; ICMPv6's covers everything.
static __always_inline int rewrite_quote(struct __sk_buff *ctx, struct packet *p, const struct quote *q,
					 struct flow *now)
{
	__u32 addresses = bpf_csum_diff((__be32 *)&q->src, 32, (__be32 *)&now->src, 32, 0);
	__u32 ports = bpf_csum_diff((__be32 *)&q->sport, 4, (__be32 *)&now->sport, 4, 0);
	_Bool v4 = p->proto == IPPROTO_ICMP;

	if (replace_addresses(ctx, q->l3, v4, addresses, &now->src) < 0 ||
	    bpf_skb_store_bytes(ctx, q->l4, &now->sport, 4, 0) < 0 ||
	    bpf_l4_csum_replace(ctx, p->l4 + ICMP_CHECK, 0, ports, 0) < 0)
		return -1;
	return v4 ? 0 : bpf_l4_csum_replace(ctx, p->l4 + ICMP_CHECK, 0, addresses, BPF_F_PSEUDO_HDR);
}

// Follows the flow that an ICMP error belongs to, as an enum known or minus a drop's reason. It is translated then, and
// p->served; of a flow that another node serves, it is not: it is to be handed on.
__noinline int follow_error(struct __sk_buff *ctx, struct packet *p)
{
	struct work *w = get_work();
	struct flow *settled;
	struct quote q = {};

	if (!p || !w || read_quote(ctx, p, &q) < 0)
		return UNKNOWN;
	set_quoted(&w->tuple, &q, 1);
	if (!find_flow(w, &settled))
		return UNKNOWN;
	if (w->forward.flags & FLOW_HANDED)
		return KNOWN;
	w->reply = (struct flow){
		.src = w->forward.dst, .dst = w->forward.src, .sport = w->forward.dport, .dport = w->forward.sport};
	if (rewrite_quote(ctx, p, &q, &w->reply) < 0)
		return -DROP_MALFORMED;
	// The error's own addresses. A router on the way stays who it is.
	if (!addr_equal(&p->src, &q.dst))
		w->forward.src = p->src;
	if (rewrite_outer(ctx, p, &w->forward) < 0)
		return -DROP_MALFORMED;
	return KNOWN;
}
