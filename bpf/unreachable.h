// SPDX-License-Identifier: Apache-2.0
//
// ICMP and ICMPv6 "port unreachable", made out of the datagram that they are about.
#pragma once

#include "refuse.h"

struct icmp_head { // RFC 792, RFC 4443
	__u8 type, code;
	__sum16 check;
	__be32 unused;
};

struct unreachable4 {
	struct iphdr ip;
	struct icmp_head icmp;
	struct iphdr quoted;
	__u8 ports[8];
} __attribute__((packed, aligned(4)));

struct unreachable6 {
	struct ipv6hdr ip;
	struct icmp_head icmp;
	struct ipv6hdr quoted;
	__u8 ports[8];
} __attribute__((packed, aligned(4)));

enum { OLD_HEADERS = 64 }; // more than an IPv6 and a UDP header

static __always_inline __sum16 fold(__s64 sum)
{
	__u32 s = sum;

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return ~s;
}

// Makes the frame fit. All that was in it goes, with whatever checksum of it was left to the hardware: that would be
// written into the quote. (The kernel forgets it when it takes away the bytes where it begins.)
static __always_inline int make_room(struct __sk_buff *ctx, __u32 size)
{
	if (bpf_skb_change_tail(ctx, ETH_HLEN + size + OLD_HEADERS, 0) < 0)
		return -1;
	return bpf_skb_adjust_room(ctx, -OLD_HEADERS, BPF_ADJ_ROOM_MAC, 0);
}

static __always_inline int unreachable_v4(struct __sk_buff *ctx, struct packet *p)
{
	struct unreachable4 u = {.icmp = {.type = ICMP_UNREACHABLE, .code = ICMP_CODE_PORT}};

	if (bpf_skb_load_bytes(ctx, ETH_HLEN, &u.quoted, sizeof(u.quoted) + sizeof(u.ports)) < 0)
		return -DROP_MALFORMED;
	u.icmp.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)&u.icmp, sizeof(u) - sizeof(u.ip), 0));
	u.ip.version = 4;
	u.ip.ihl = 5;
	u.ip.tot_len = bpf_htons(sizeof(u));
	u.ip.ttl = REFUSAL_TTL;
	u.ip.protocol = IPPROTO_ICMP;
	u.ip.saddr = p->dst.word[3];
	u.ip.daddr = p->src.word[3];
	u.ip.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)&u.ip, sizeof(u.ip), 0));
	if (make_room(ctx, sizeof(u)) < 0 || bpf_skb_store_bytes(ctx, ETH_HLEN, &u, sizeof(u), 0) < 0 ||
	    set_macs(ctx, &p->from, &p->to) < 0)
		return -DROP_MALFORMED;
	return REFUSED;
}

static __always_inline int unreachable_v6(struct __sk_buff *ctx, struct packet *p)
{
	struct unreachable6 u = {.icmp = {.type = ICMP6_UNREACHABLE, .code = ICMP6_CODE_PORT}};
	struct {
		__be32 length, next;
	} pseudo = {bpf_htonl(sizeof(u) - sizeof(u.ip)), bpf_htonl(IPPROTO_ICMPV6)}; // RFC 8200, 8.1
	__s64 sum;

	if (bpf_skb_load_bytes(ctx, ETH_HLEN, &u.quoted, sizeof(u.quoted) + sizeof(u.ports)) < 0)
		return -DROP_MALFORMED;
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&u.icmp, sizeof(u) - sizeof(u.ip), 0);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&p->src, 32, sum);
	u.icmp.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), sum));
	u.ip.version = 6;
	u.ip.payload_len = bpf_htons(sizeof(u) - sizeof(u.ip));
	u.ip.nexthdr = IPPROTO_ICMPV6;
	u.ip.hop_limit = REFUSAL_TTL;
	__builtin_memcpy(&u.ip.saddr, &p->dst, sizeof(p->dst));
	__builtin_memcpy(&u.ip.daddr, &p->src, sizeof(p->src));
	if (make_room(ctx, sizeof(u)) < 0 || bpf_skb_store_bytes(ctx, ETH_HLEN, &u, sizeof(u), 0) < 0 ||
	    set_macs(ctx, &p->from, &p->to) < 0)
		return -DROP_MALFORMED;
	return REFUSED;
}

// Nobody serves the port that a packet is for. Other protocols' senders find out by waiting, and so do those whose
// headers hold more than the plain ones.
__noinline int refuse(struct __sk_buff *ctx, struct packet *p)
{
	struct work *w = get_work();

	if (!p || !w)
		return -DROP_NO_BACKEND;
	if (p->proto == IPPROTO_TCP && !p->fragment)
		return reset(ctx, p, w);
	if (p->proto != IPPROTO_UDP || p->options || p->fragment)
		return -DROP_NO_BACKEND;
	return addr_is_v4(&p->dst) ? unreachable_v4(ctx, p) : unreachable_v6(ctx, p);
}
