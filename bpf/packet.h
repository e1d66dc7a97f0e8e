// SPDX-License-Identifier: Apache-2.0
//
// The packet as the stages see it. IPv4 and IPv6 differ here and in route_hop(), nowhere else.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ruletypes.h"

// Extension headers that a packet may have before it is malformed. Real ones have none to two.
enum { MAX_EXTENSIONS = 8 };

// ICMP types (RFC 792) and ICMPv6's (RFC 4861). linux/icmp.h needs a C library, which there is none of here.
enum {
	ICMP_UNREACHABLE = 3,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,
	ICMP6_ERRORS_END = 128,
	ICMP_ECHO = 8,
	ICMP_ECHO_REPLY = 0,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ND_ROUTER_SOLICITATION = 133,
	ND_ROUTER_ADVERTISEMENT = 134,
	ND_NEIGHBOUR_SOLICITATION = 135,
	ND_NEIGHBOUR_ADVERTISEMENT = 136,
	ND_REDIRECT = 137,
	ND_HOPS = 255, // its hop limit, which no packet has that has been routed
};

struct packet {
	struct mac to, from;
	__be16 ethertype;
	__u8 proto; // of the last header; of a fragment's packet, the one after the fragment header
	__u8 ttl;   // or hop limit
	__u8 icmp_type;
	_Bool fragment;
	_Bool first;	// of the fragments: it has the ports
	_Bool options;	// IPv4 options or IPv6 extension headers: the stack's business
	_Bool ports;	// sport and dport hold something
	_Bool shaped;	// the sender's link has queues that it must wait in
	_Bool served;	// its addresses have been rewritten
	_Bool isolated; // the sender is, and the work says by which rulesets
	__u8 tcp;	// its flags; of a fragment, zero
	__u32 l4;	// offset of the header after IP
	__u32 id;	// of the fragments of one packet
	__be16 sport, dport;
	struct addr src, dst;
};

static __always_inline _Bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline _Bool mac_equal(const struct mac *a, const struct mac *b)
{
	__u8 differ = 0;

	for (int i = 0; i < 6; i++)
		differ |= a->byte[i] ^ b->byte[i];
	return !differ;
}

static __always_inline struct addr addr_v4(__be32 v4)
{
	struct addr a = {{0, 0, bpf_htonl(0xffff), v4}};

	return a;
}

static __always_inline _Bool addr_is_v4(const struct addr *a)
{
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline _Bool prefix_has(const struct prefix *p, const struct addr *a)
{
	return (a->word[0] & p->mask.word[0]) == p->addr.word[0] && (a->word[1] & p->mask.word[1]) == p->addr.word[1] &&
	       (a->word[2] & p->mask.word[2]) == p->addr.word[2] && (a->word[3] & p->mask.word[3]) == p->addr.word[3];
}

// 224.0.0.0/4, 255.255.255.255, ff00::/8.
static __always_inline _Bool addr_is_multicast(const struct addr *a)
{
	if (addr_is_v4(a))
		return (a->word[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || a->word[3] == 0xffffffff;
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

// fe80::/10. IPv4's 169.254.0.0/16 is routed like any other: clouds keep their metadata service there.
static __always_inline _Bool addr_is_link_local(const struct addr *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

// Addresses that mean "here" or "nobody", which no packet on a wire may carry: 0.0.0.0/8, 127.0.0.0/8, ::, ::1.
static __always_inline _Bool addr_is_local_only(const struct addr *a)
{
	__be32 net = a->word[3] & bpf_htonl(0xff000000);

	if (addr_is_v4(a))
		return net == 0 || net == bpf_htonl(0x7f000000);
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == 0 && (a->word[3] == 0 || a->word[3] == bpf_htonl(1));
}

static __always_inline _Bool is_icmp(const struct packet *p)
{
	return p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6;
}

static __always_inline _Bool is_icmp_error(const struct packet *p)
{
	if (p->fragment) // its type is unknown
		return 0;
	if (p->proto == IPPROTO_ICMP)
		return p->icmp_type == ICMP_UNREACHABLE || p->icmp_type == ICMP_TIME_EXCEEDED ||
		       p->icmp_type == ICMP_PARAMETER_PROBLEM;
	return p->proto == IPPROTO_ICMPV6 && p->icmp_type < ICMP6_ERRORS_END;
}

static __always_inline _Bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

static __always_inline _Bool is_extension(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
	       proto == IPPROTO_FRAGMENT;
}

struct tcp_head { // RFC 9293, 3.1
	__be16 sport, dport;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window;
};

enum { PORTS = 4, TCP_FLAGS = 13 }; // of a header: the size of what UDP and SCTP have too, and an offset

// Ports, or the ICMP type. What the packet is too short for stays zero: the receiver's stack judges that.
static __always_inline int parse_l4(struct __sk_buff *ctx, struct packet *p)
{
	struct tcp_head head;

	if (p->fragment)
		return GO_ON;
	if (is_icmp(p) && bpf_skb_load_bytes(ctx, p->l4, &p->icmp_type, 1) < 0)
		return -DROP_MALFORMED;
	if (!has_ports(p->proto))
		return GO_ON;
	if ((p->proto == IPPROTO_TCP && bpf_skb_load_bytes(ctx, p->l4, &head, TCP_FLAGS + 1) == 0) ||
	    bpf_skb_load_bytes(ctx, p->l4, &head, PORTS) == 0) {
		p->sport = head.sport;
		p->dport = head.dport;
		p->tcp = p->proto == IPPROTO_TCP ? head.flags : 0;
		p->ports = 1;
	}
	return GO_ON;
}

static __always_inline int parse_v4(struct __sk_buff *ctx, struct packet *p)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(ctx, ETH_HLEN, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
		return -DROP_MALFORMED;
	p->src = addr_v4(ip.saddr);
	p->dst = addr_v4(ip.daddr);
	p->proto = ip.protocol;
	p->ttl = ip.ttl;
	p->options = ip.ihl > 5;
	p->fragment = (ip.frag_off & bpf_htons(0x3fff)) != 0; // more fragments, or an offset
	p->first = (ip.frag_off & bpf_htons(0x1fff)) == 0;
	p->id = ip.id;
	p->l4 = ETH_HLEN + ip.ihl * 4;
	return parse_l4(ctx, p);
}

// What is in a fragment is for whoever puts it together, but for its ports (RFC 8200, 4.5).
static __always_inline int parse_v6_fragment(struct __sk_buff *ctx, struct packet *p)
{
	struct {
		__u8 nexthdr, reserved;
		__be16 offset;
		__be32 id;
	} frag;

	if (bpf_skb_load_bytes(ctx, p->l4, &frag, sizeof(frag)) < 0)
		return -DROP_MALFORMED;
	p->fragment = 1;
	p->first = (frag.offset & bpf_htons(0xfff8)) == 0;
	p->id = frag.id;
	p->proto = frag.nexthdr;
	p->l4 += sizeof(frag);
	return GO_ON;
}

// Walks the extension headers, so that none can hide what comes after it (RFC 7113).
static __always_inline int parse_v6_extensions(struct __sk_buff *ctx, struct packet *p)
{
	struct ipv6_opt_hdr ext;

	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (p->proto == IPPROTO_FRAGMENT)
			return parse_v6_fragment(ctx, p);
		if (!is_extension(p->proto))
			return parse_l4(ctx, p);
		if (bpf_skb_load_bytes(ctx, p->l4, &ext, sizeof(ext)) < 0)
			return -DROP_MALFORMED;
		p->options = 1;
		p->proto = ext.nexthdr;
		p->l4 += (ext.hdrlen + 1) * 8;
	}
	return -DROP_MALFORMED;
}

static __always_inline int parse_v6(struct __sk_buff *ctx, struct packet *p)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(ctx, ETH_HLEN, &ip, sizeof(ip)) < 0 || ip.version != 6)
		return -DROP_MALFORMED;
	__builtin_memcpy(&p->src, &ip.saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip.daddr, sizeof(p->dst));
	// A v4-mapped address on the wire would be taken for the IPv4 address.
	if (addr_is_v4(&p->src) || addr_is_v4(&p->dst))
		return -DROP_MALFORMED;
	p->proto = ip.nexthdr;
	p->ttl = ip.hop_limit;
	p->l4 = ETH_HLEN + sizeof(ip);
	return parse_v6_extensions(ctx, p);
}

// Reads the headers. GO_ON: it is IPv4 or IPv6; TO_STACK: it is something else.
static __always_inline int parse(struct __sk_buff *ctx, struct packet *p)
{
	struct ethhdr eth;

	if (bpf_skb_load_bytes(ctx, 0, &eth, sizeof(eth)) < 0)
		return -DROP_MALFORMED;
	__builtin_memcpy(&p->to, eth.h_dest, sizeof(p->to));
	__builtin_memcpy(&p->from, eth.h_source, sizeof(p->from));
	p->ethertype = eth.h_proto;
	if (eth.h_proto == bpf_htons(ETH_P_IP))
		return parse_v4(ctx, p);
	if (eth.h_proto == bpf_htons(ETH_P_IPV6))
		return parse_v6(ctx, p);
	return TO_STACK;
}
