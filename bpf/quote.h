// SPDX-License-Identifier: Apache-2.0
//
// Whose flow a packet is of: its own addresses and ports, or those of the packet that an ICMP error quotes.
#pragma once

#include "packet.h"

static __always_inline void set_tuple(struct tuple *t, const struct packet *p)
{
	t->src = p->src;
	t->dst = p->dst;
	t->sport = p->sport;
	t->dport = p->dport;
	t->proto = p->proto;
	__builtin_memset(t->unused, 0, sizeof(t->unused));
}

static __always_inline void turn_round(struct tuple *t, const struct tuple *of)
{
	t->src = of->dst;
	t->dst = of->src;
	t->sport = of->dport;
	t->dport = of->sport;
	t->proto = of->proto;
	__builtin_memset(t->unused, 0, sizeof(t->unused));
}

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
	if (!has_ports(q->proto))
		return -1;
	return bpf_skb_load_bytes(ctx, q->l4, &q->sport, 4);
}

// The flow's packets that the quoted one answers, or that it was one of.
static __always_inline void set_quoted(struct tuple *t, const struct quote *q, _Bool answered)
{
	struct tuple own = {.src = q->src, .dst = q->dst, .sport = q->sport, .dport = q->dport, .proto = q->proto};

	*t = own;
	if (answered)
		turn_round(t, &own);
}
