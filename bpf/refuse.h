// SPDX-License-Identifier: Apache-2.0
//
// Refusing: whoever asks for a port that nobody serves is told so at once, by what a host would say.
#pragma once

#include "rewrite.h"

enum { ICMP_CODE_PORT = 3, ICMP6_UNREACHABLE = 1, ICMP6_CODE_PORT = 4, REFUSAL_TTL = 64 };

// The segment itself becomes the reset (RFC 9293, 3.10.7.1), with its own length, so that checksums change by what is
// changed here and no more.
static __always_inline int reset(struct __sk_buff *ctx, struct packet *p, struct work *w)
{
	struct tcp_head old, new;

	if (bpf_skb_load_bytes(ctx, p->l4, &old, sizeof(old)) < 0)
		return -DROP_MALFORMED;
	if (old.flags & TCP_RST)
		return -DROP_NO_BACKEND;
	new = old;
	new.seq = old.flags &TCP_ACK ? old.ack : 0;
	new.ack = old.flags &TCP_ACK ? 0 : bpf_htonl(bpf_ntohl(old.seq) + 1);
	new.flags = old.flags &TCP_ACK ? TCP_RST : TCP_RST | TCP_ACK;
	new.window = 0;
	if (bpf_l4_csum_replace(ctx, p->l4 + TCP_CHECK, 0,
				bpf_csum_diff((__be32 *)&old, sizeof(old), (__be32 *)&new, sizeof(new), 0), 0) < 0 ||
	    bpf_skb_store_bytes(ctx, p->l4, &new, sizeof(new), 0) < 0)
		return -DROP_MALFORMED;
	w->forward = (struct flow){.src = p->dst, .dst = p->src, .sport = p->dport, .dport = p->sport};
	if (rewrite(ctx, p) < 0 || set_macs(ctx, &p->from, &p->to) < 0)
		return -DROP_MALFORMED;
	return REFUSED;
}
