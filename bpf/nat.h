// SPDX-License-Identifier: Apache-2.0
//
// Flows that somebody else translates. kube-proxy and the portmap plugin rewrite addresses in the kernel's conntrack;
// their replies must go back the way they came, through the stack. The kernel's own table is asked, so nothing
// needs to be told or configured.
#pragma once

#include "quote.h"

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
	struct nf_conntrack_tuple_hash {
		struct nf_conntrack_tuple {
			struct nf_conntrack_man {
				union nf_inet_addr {
					__u32 all[4];
				} u3;
				union nf_conntrack_man_proto {
					__be16 all;
				} u;
			} src;
		} tuple;
	} tuplehash[2]; // of the packets of whoever began it, and of their answers
} __attribute__((preserve_access_index));

struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple, __u32 tuple_size,
				  struct bpf_ct_opts___polder *opts, __u32 opts_size) __ksym;
void bpf_ct_release(struct nf_conn *ct) __ksym;

enum { STATUS_NAT_MASK = 1 << 4 | 1 << 5 }; // IPS_SRC_NAT | IPS_DST_NAT

enum way { UNTRACKED, FORWARD, BACKWARD }; // of a packet: that of whoever began its flow, or of the answers

static __always_inline void set_man(struct addr *a, __be16 *port, const struct nf_conntrack_man *man, _Bool v4)
{
	*a = v4 ? addr_v4(man->u3.all[0])
		: (struct addr){{man->u3.all[0], man->u3.all[1], man->u3.all[2], man->u3.all[3]}};
	*port = man->u.all;
}

// Asks for a flow by the addresses and ports of one of its packets. Began: where the true ones of whoever began it go,
// and of whoever it has come to; NULL: they are not asked for.
static __always_inline enum way find_tracked(struct __sk_buff *ctx, const struct tuple *t, struct tuple *began,
					     _Bool *translated)
{
	struct bpf_ct_opts___polder opts = {.netns_id = BPF_F_CURRENT_NETNS, .l4proto = t->proto};
	struct bpf_sock_tuple tuple = {};
	_Bool v4 = addr_is_v4(&t->src);
	struct nf_conn *ct;

	if (v4) {
		tuple.ipv4.saddr = t->src.word[3];
		tuple.ipv4.daddr = t->dst.word[3];
		tuple.ipv4.sport = t->sport;
		tuple.ipv4.dport = t->dport;
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &t->src, sizeof(t->src));
		__builtin_memcpy(tuple.ipv6.daddr, &t->dst, sizeof(t->dst));
		tuple.ipv6.sport = t->sport;
		tuple.ipv6.dport = t->dport;
	}
	ct = bpf_skb_ct_lookup(ctx, &tuple, v4 ? sizeof(tuple.ipv4) : sizeof(tuple.ipv6), &opts, sizeof(opts));
	if (!ct)
		return UNTRACKED;
	*translated = ct->status & STATUS_NAT_MASK;
	if (began) {
		set_man(&began->src, &began->sport, &ct->tuplehash[0].tuple.src, v4);
		set_man(&began->dst, &began->dport, &ct->tuplehash[1].tuple.src, v4);
	}
	bpf_ct_release(ct);
	return opts.dir ? BACKWARD : FORWARD;
}

// Is the packet's flow translated, or that of the packet that it quotes?
__noinline int is_translated(struct __sk_buff *ctx, struct packet *p)
{
	_Bool translated = 0;
	struct quote q = {};
	struct tuple t;

	if (!p)
		return 0;
	if (!is_icmp_error(p) && !p->ports)
		return 0;
	set_tuple(&t, p);
	if (is_icmp_error(p)) {
		if (read_quote(ctx, p, &q) < 0)
			return 0;
		// It went the other way: after translation where the error has yet to be translated back, else before.
		set_quoted(&t, &q, 0);
		if (find_tracked(ctx, &t, NULL, &translated) != UNTRACKED)
			return translated;
		set_quoted(&t, &q, 1);
	}
	find_tracked(ctx, &t, NULL, &translated);
	return translated;
}
