// SPDX-License-Identifier: Apache-2.0
//
// Flows that somebody else translates. kube-proxy and the portmap plugin rewrite addresses in the kernel's conntrack;
// their replies must go back the way they came, through the stack. The kernel's own table is asked, so nothing
// needs to be told or configured.
#pragma once

#include "packet.h"

// As in net/netfilter/nf_conntrack_bpf.c; 12 bytes is the size since v5.18, later ones accept it.
struct bpf_ct_opts___polder {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));

struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple, __u32 tuple_size,
				  struct bpf_ct_opts___polder *opts, __u32 opts_size) __ksym;
void bpf_ct_release(struct nf_conn *ct) __ksym;

enum { STATUS_NAT_MASK = 1 << 4 | 1 << 5 }; // IPS_SRC_NAT | IPS_DST_NAT

static __always_inline _Bool tuple_is_translated(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple, __u32 size,
						 __u8 proto)
{
	struct bpf_ct_opts___polder opts = {.netns_id = BPF_F_CURRENT_NETNS, .l4proto = proto};
	struct nf_conn *ct = bpf_skb_ct_lookup(ctx, tuple, size, &opts, sizeof(opts));
	_Bool translated;

	if (!ct)
		return 0;
	translated = ct->status & STATUS_NAT_MASK;
	bpf_ct_release(ct);
	return translated;
}

static __always_inline _Bool flow_is_translated(struct __sk_buff *ctx, const struct addr *src, const struct addr *dst,
						__be16 sport, __be16 dport, __u8 proto)
{
	struct bpf_sock_tuple tuple = {};

	if (addr_is_v4(src)) {
		tuple.ipv4.saddr = src->word[3];
		tuple.ipv4.daddr = dst->word[3];
		tuple.ipv4.sport = sport;
		tuple.ipv4.dport = dport;
		return tuple_is_translated(ctx, &tuple, sizeof(tuple.ipv4), proto);
	}
	__builtin_memcpy(tuple.ipv6.saddr, src, sizeof(*src));
	__builtin_memcpy(tuple.ipv6.daddr, dst, sizeof(*dst));
	tuple.ipv6.sport = sport;
	tuple.ipv6.dport = dport;
	return tuple_is_translated(ctx, &tuple, sizeof(tuple.ipv6), proto);
}

// An ICMP error belongs to the flow of the packet that it quotes. That packet went the other way, after
// translation, so the flow's reply direction is the quoted one turned round.
static __always_inline _Bool quoted_flow_is_translated(struct __sk_buff *ctx, const struct packet *p)
{
	struct addr src, dst;
	struct ipv6hdr ip6;
	struct iphdr ip;
	__be16 ports[2];
	__u32 l4 = p->l4 + 8;
	__u8 proto;

	if (p->proto == IPPROTO_ICMP) {
		if (bpf_skb_load_bytes(ctx, l4, &ip, sizeof(ip)) < 0)
			return 0;
		src = addr_v4(ip.saddr);
		dst = addr_v4(ip.daddr);
		proto = ip.protocol;
		l4 += ip.ihl * 4;
	} else {
		if (bpf_skb_load_bytes(ctx, l4, &ip6, sizeof(ip6)) < 0)
			return 0;
		__builtin_memcpy(&src, &ip6.saddr, sizeof(src));
		__builtin_memcpy(&dst, &ip6.daddr, sizeof(dst));
		proto = ip6.nexthdr;
		l4 += sizeof(ip6);
	}
	if ((proto != IPPROTO_TCP && proto != IPPROTO_UDP) || bpf_skb_load_bytes(ctx, l4, ports, sizeof(ports)) < 0)
		return 0;
	return flow_is_translated(ctx, &dst, &src, ports[1], ports[0], proto);
}

__noinline int is_translated(struct __sk_buff *ctx, struct packet *p)
{
	if (!p)
		return 0;
	if (is_icmp_error(p))
		return quoted_flow_is_translated(ctx, p);
	return p->ports && flow_is_translated(ctx, &p->src, &p->dst, p->sport, p->dport, p->proto);
}
