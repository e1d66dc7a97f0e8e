// SPDX-License-Identifier: Apache-2.0
//
// What a pod may send: packets from its own address and MAC, ARP and neighbour discovery about itself. Nothing else
// gets past this file.
#pragma once

#include "maps.h"
#include "packet.h"
#include "rules.h"

enum { ARP_REPLY = 2 };

struct arp {
	__be16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__be16 operation;
	__u8 sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
};

// Has this pod, known by its link, this address and this MAC? Behind another plugin, its MAC is that one's business.
static __always_inline int guard_source(struct __sk_buff *ctx, struct packet *p)
{
	struct config *cfg = get_config();
	struct endpoint *ep = bpf_map_lookup_elem(&endpoints, &p->src);

	if (!ep || ep->ifindex != ctx->ifindex)
		return -DROP_SPOOFED_SOURCE;
	p->shaped = ep->shaped;
	if (cfg && cfg->others_pods)
		p->shaped = 1;
	else if (!mac_equal(&ep->pod_mac, &p->from))
		return -DROP_SPOOFED_MAC;
	if (ep->egress | ep->ingress)
		set_sender(p, ep);
	return GO_ON;
}

// Answers a pod's ARP request: the host's end is the next hop to every address but the pod's own. (The pod has a
// permanent entry for its gateway; this is for a pod that lost it, and for bridges and machines within pods.)
__noinline int guard_arp(struct __sk_buff *ctx, struct packet *p)
{
	struct config *cfg = get_config();
	struct arp arp;
	struct addr sender, target;
	struct endpoint *ep;
	__be32 ip;

	if (cfg && cfg->others_pods)
		return TO_STACK;
	if (!p || bpf_skb_load_bytes(ctx, ETH_HLEN, &arp, sizeof(arp)) < 0)
		return -DROP_MALFORMED;
	__builtin_memcpy(&ip, arp.sender_ip, sizeof(ip));
	sender = addr_v4(ip);
	__builtin_memcpy(&ip, arp.target_ip, sizeof(ip));
	target = addr_v4(ip);
	ep = bpf_map_lookup_elem(&endpoints, &sender);
	if (!ep || ep->ifindex != ctx->ifindex || !mac_equal(&ep->pod_mac, &p->from) ||
	    !mac_equal(&ep->pod_mac, (struct mac *)arp.sender_mac))
		return -DROP_SPOOFED_NEIGHBOUR;
	if (arp.operation == bpf_htons(ARP_REPLY))
		return TO_STACK; // about itself, to a question of the host's
	if (addr_equal(&sender, &target))
		return -DROP_SPOOFED_NEIGHBOUR; // gratuitous: there is nobody to tell

	arp.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(arp.target_ip, arp.sender_ip, 4);
	__builtin_memcpy(arp.target_mac, arp.sender_mac, 6);
	__builtin_memcpy(arp.sender_ip, &target.word[3], 4);
	__builtin_memcpy(arp.sender_mac, &ep->host_mac, 6);
	if (bpf_skb_store_bytes(ctx, ETH_HLEN, &arp, sizeof(arp), 0) < 0 ||
	    set_macs(ctx, &ep->pod_mac, &ep->host_mac) < 0)
		return -DROP_MALFORMED;
	return TO_SENDER;
}

// Neighbour discovery (RFC 4861): a pod may ask its host, and answer about itself.
static __always_inline int guard_neighbour_discovery(struct __sk_buff *ctx, struct packet *p)
{
	struct addr target;
	struct endpoint *ep;

	if (p->icmp_type == ND_ROUTER_ADVERTISEMENT || p->icmp_type == ND_REDIRECT)
		return -DROP_ROUTER_ADVERTISEMENT;
	if (p->icmp_type == ND_ROUTER_SOLICITATION) // its routes are set, nobody answers
		return -DROP_MULTICAST;
	if (bpf_skb_load_bytes(ctx, p->l4 + 8, &target, sizeof(target)) < 0)
		return -DROP_MALFORMED;
	if (p->icmp_type == ND_NEIGHBOUR_SOLICITATION) // the stack answers for its own addresses alone
		return TO_STACK;
	ep = bpf_map_lookup_elem(&endpoints, &target);
	if (ep ? ep->ifindex == ctx->ifindex : addr_is_link_local(&target) && addr_equal(&target, &p->src))
		return TO_STACK;
	return -DROP_SPOOFED_NEIGHBOUR;
}

static __always_inline _Bool is_neighbour_discovery(const struct packet *p)
{
	return p->proto == IPPROTO_ICMPV6 && p->icmp_type >= ND_ROUTER_SOLICITATION && p->icmp_type <= ND_REDIRECT;
}

// Behind another plugin, neighbours and groups are that one's business.
static __always_inline _Bool is_others_business(const struct packet *p)
{
	struct config *cfg = get_config();

	return cfg && cfg->others_pods &&
	       (is_neighbour_discovery(p) || addr_is_multicast(&p->dst) || addr_is_link_local(&p->src) ||
		addr_is_link_local(&p->dst));
}

// The whole guard for an IP packet. GO_ON: it is a packet of this pod's to somewhere.
static __always_inline int guard(struct __sk_buff *ctx, struct packet *p)
{
	struct addr gateway = {{bpf_htonl(0xfe800000), 0, 0, bpf_htonl(1)}}; // the host's end of every pod's link
	int rc;

	if (is_others_business(p))
		return TO_STACK;
	if (is_neighbour_discovery(p)) {
		_Bool unspecified = !addr_is_v4(&p->src) && addr_is_local_only(&p->src) && p->src.word[3] == 0;

		if (addr_equal(&p->src, &gateway))
			return -DROP_SPOOFED_NEIGHBOUR;
		if (!addr_is_link_local(&p->src) && !(unspecified && p->icmp_type == ND_NEIGHBOUR_SOLICITATION)) {
			rc = guard_source(ctx, p);
			if (rc)
				return rc;
		}
		return guard_neighbour_discovery(ctx, p);
	}
	// A pod's stack reports its multicast groups from its link-local address; nobody here wants to know.
	if (addr_is_link_local(&p->src) && addr_is_multicast(&p->dst))
		return -DROP_MULTICAST;
	rc = guard_source(ctx, p);
	if (rc)
		return rc;
	if (addr_is_multicast(&p->dst))
		return -DROP_MULTICAST;
	if (addr_is_local_only(&p->dst) || addr_is_link_local(&p->dst))
		return -DROP_BAD_DESTINATION;
	return GO_ON;
}
