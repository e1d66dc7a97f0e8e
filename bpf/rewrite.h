// SPDX-License-Identifier: Apache-2.0
//
// Other addresses and ports in a packet, and right checksums.
#pragma once

#include "flow.h"

enum { TCP_CHECK = 16, UDP_CHECK = 6, ICMP_CHECK = 2, IP_CHECK = 10, IP_ADDRS = 12, IP6_ADDRS = 8 }; // offsets

static __always_inline int replace_l4(struct __sk_buff *ctx, const struct packet *p, __u32 addresses, __u32 ports,
				      const __be16 *to)
{
	__u32 check = p->l4 + (p->proto == IPPROTO_TCP ? TCP_CHECK : UDP_CHECK);
	__u64 flags = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (p->proto != IPPROTO_SCTP && // its checksum covers no addresses
	    (bpf_l4_csum_replace(ctx, check, 0, addresses, flags | BPF_F_PSEUDO_HDR) < 0 ||
	     bpf_l4_csum_replace(ctx, check, 0, ports, flags) < 0))
		return -1;
	return bpf_skb_store_bytes(ctx, p->l4, to, 4, 0);
}

// What a network card has summed up (CHECKSUM_COMPLETE) is corrected by whoever changes it: an IPv4 header's sum stays
// what it was; IPv6's does not, and bpf_l4_csum_replace, told of addresses, sees to its own field alone.
static __always_inline int replace_addresses(struct __sk_buff *ctx, __u32 l3, _Bool v4, __u32 difference,
					     const struct addr *to)
{
	__be32 pair[2] = {to[0].word[3], to[1].word[3]};

	if (!v4)
		return bpf_skb_store_bytes(ctx, l3 + IP6_ADDRS, to, 2 * sizeof(*to), BPF_F_RECOMPUTE_CSUM);
	if (bpf_l3_csum_replace(ctx, l3 + IP_CHECK, 0, difference, 0) < 0)
		return -1;
	return bpf_skb_store_bytes(ctx, l3 + IP_ADDRS, pair, sizeof(pair), 0);
}

// Rewrites both addresses and ports, as the work's forward says. Both ends are of one family; a v4-mapped address
// differs from another in its last word alone, so one difference serves the header's checksum and the one that covers
// the addresses.
__noinline int rewrite(struct __sk_buff *ctx, struct packet *p)
{
	struct work *w = get_work();
	struct flow *f;
	__u32 addresses, ports;
	_Bool v4;

	if (!p || !w)
		return -DROP_MALFORMED;
	f = &w->forward;
	v4 = addr_is_v4(&p->dst);
	addresses = bpf_csum_diff((__be32 *)&p->src, 32, (__be32 *)&f->src, 32, 0);
	ports = bpf_csum_diff((__be32 *)&p->sport, 4, (__be32 *)&f->sport, 4, 0);
	if (replace_addresses(ctx, ETH_HLEN, v4, addresses, &f->src) < 0)
		return -DROP_MALFORMED;
	if ((!p->fragment || p->first) && replace_l4(ctx, p, addresses, ports, &f->sport) < 0)
		return -DROP_MALFORMED;
	p->src = f->src;
	p->dst = f->dst;
	p->sport = f->sport;
	p->dport = f->dport;
	p->served = 1;
	return GO_ON;
}

// The same for an ICMP error, which has no ports. ICMPv6's checksum covers the addresses.
static __always_inline int rewrite_outer(struct __sk_buff *ctx, struct packet *p, const struct flow *f)
{
	_Bool v4 = addr_is_v4(&p->dst);
	__u32 addresses = bpf_csum_diff((__be32 *)&p->src, 32, (__be32 *)&f->src, 32, 0);

	if (replace_addresses(ctx, ETH_HLEN, v4, addresses, &f->src) < 0)
		return -1;
	if (!v4 && bpf_l4_csum_replace(ctx, p->l4 + ICMP_CHECK, 0, addresses, BPF_F_PSEUDO_HDR) < 0)
		return -1;
	p->src = f->src;
	p->dst = f->dst;
	p->served = 1;
	return 0;
}
