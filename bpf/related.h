// SPDX-License-Identifier: Apache-2.0
//
// ICMP errors about packets of translated flows: both the error's own addresses and those of the packet that it quotes
// become what the receiver knows.
#pragma once

#include "flow.h"
#include "rewrite.h"

// The packet that an ICMP error quotes.
struct quote {
	struct addr src, dst;
	__be16 sport, dport;
	__u32 l3, l4; // offsets of its headers
	__u8 proto;
};

static __always_inline int read_quote(struct __sk_buff *ctx, const struct packet *p, struct quote *q)
{
	struct ipv6hdr ip6;
	struct iphdr ip;

	q->l3 = p->l4 + 8;
	if (p->proto == IPPROTO_ICMP) {
		if (bpf_skb_load_bytes(ctx, q->l3, &ip, sizeof(ip)) < 0 || ip.frag_off & bpf_htons(0x1fff))
			return -1;
		q->src = addr_v4(ip.saddr);
		q->dst = addr_v4(ip.daddr);
		q->proto = ip.protocol;
		q->l4 = q->l3 + ip.ihl * 4;
	} else {
		if (bpf_skb_load_bytes(ctx, q->l3, &ip6, sizeof(ip6)) < 0)
			return -1;
		__builtin_memcpy(&q->src, &ip6.saddr, sizeof(q->src));
		__builtin_memcpy(&q->dst, &ip6.daddr, sizeof(q->dst));
		q->proto = ip6.nexthdr;
		q->l4 = q->l3 + sizeof(ip6);
	}
	if (q->proto != IPPROTO_TCP && q->proto != IPPROTO_UDP && q->proto != IPPROTO_SCTP)
		return -1;
	return bpf_skb_load_bytes(ctx, q->l4, &q->sport, 4);
}

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

// The flow's packets that the quoted one answers, or that it was one of.
static __always_inline void set_quoted(struct tuple *t, const struct quote *q, _Bool answered)
{
	*t = (struct tuple){.src = q->src, .dst = q->dst, .sport = q->sport, .dport = q->dport, .proto = q->proto};
	if (answered)
		*t = (struct tuple){
			.src = q->dst, .dst = q->src, .sport = q->dport, .dport = q->sport, .proto = q->proto};
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
