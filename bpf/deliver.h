// SPDX-License-Identifier: Apache-2.0
//
// Where a packet goes, and the last steps before it does.
#pragma once

#include <stddef.h>

#include "maps.h"
#include "nat.h"
#include "packet.h"

enum { FAMILY_V4 = 2, FAMILY_V6 = 10 }; // AF_INET, AF_INET6

static __always_inline struct config *get_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&configuration, &zero);
}

static __always_inline struct remote *find_remote(const struct addr *a)
{
	struct remote_key key = {.prefixlen = 128, .addr = *a};

	return bpf_map_lookup_elem(&remotes, &key);
}

// Packets that only the stack can treat rightly: those that a router must answer with an error, fragments (it puts
// them together for whoever translates), options, SCTP, whose translation the datapath cannot look up, those that a
// queue on a pod's link waits for, and all where another plugin connects pods.
static __always_inline _Bool needs_stack(struct __sk_buff *ctx, struct packet *p)
{
	struct config *cfg = get_config();

	return p->shaped || p->fragment || p->options || p->ttl <= 1 || p->proto == IPPROTO_SCTP || !cfg ||
	       cfg->others_pods || (cfg->ask_conntrack && is_translated(ctx, p));
}

// One hop less to live, as every router does. The IPv4 checksum changes by the same amount (RFC 1624).
static __always_inline int route_hop(struct __sk_buff *ctx, const struct packet *p)
{
	struct {
		__u8 ttl, proto;
		__be16 check;
	} v4;
	__u8 hop_limit = p->ttl - 1;
	__u32 sum;

	if (!addr_is_v4(&p->dst))
		return bpf_skb_store_bytes(ctx, ETH_HLEN + 7, &hop_limit, 1, BPF_F_RECOMPUTE_CSUM);
	if (bpf_skb_load_bytes(ctx, ETH_HLEN + 8, &v4, sizeof(v4)) < 0)
		return -1;
	sum = bpf_ntohs(v4.check) + 0x100;
	v4.check = bpf_htons(sum + (sum >> 16));
	v4.ttl--;
	return bpf_skb_store_bytes(ctx, ETH_HLEN + 8, &v4, sizeof(v4), 0);
}

static __always_inline int set_macs(struct __sk_buff *ctx, const struct mac *to, const struct mac *from)
{
	struct mac macs[2] = {*to, *from};

	return bpf_skb_store_bytes(ctx, 0, macs, sizeof(macs), 0);
}

static __always_inline void count(__u32 outcome, __u32 bytes)
{
	struct count *count = bpf_map_lookup_elem(&counts, &outcome);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
}

// Counts, and turns an outcome into what the kernel wants to hear. A packet for the stack still meets the programs
// that others attached after ours. The redirects have been asked for by the stage that chose them.
static __always_inline int finish(struct __sk_buff *ctx, int result)
{
	count(result < 0 ? -result : result, ctx->len);
	if (result < 0)
		return TC_ACT_SHOT;
	return result == TO_STACK ? TC_ACT_UNSPEC : TC_ACT_REDIRECT;
}

// Into the pod's namespace in one hop. The MAC addresses are written anew: whoever forwards within the pod, a
// bridge or a virtual machine, looks at them.
static __always_inline int redirect_to_pod(struct __sk_buff *ctx, const struct packet *p, const struct endpoint *ep)
{
	if (route_hop(ctx, p) < 0 || set_macs(ctx, &ep->pod_mac, &ep->host_mac) < 0)
		return -DROP_MALFORMED;
	bpf_redirect_peer(ep->ifindex, 0);
	return TO_POD;
}

// Too big for the link that it would leave by: the stack has to tell the sender. The parts of a packet that the link
// will cut up are what counts.
static __always_inline _Bool is_too_big(struct __sk_buff *ctx, __u32 ifindex)
{
	__u32 mtu = 0;

	return bpf_check_mtu(ctx, ifindex, &mtu, 0, BPF_MTU_CHK_SEGS) != 0;
}

static __always_inline int to_native(struct __sk_buff *ctx, const struct packet *p, const struct remote *r)
{
	struct bpf_redir_neigh next = {};

	if (is_too_big(ctx, r->ifindex))
		return TO_STACK;
	if (addr_is_v4(&r->via)) {
		next.nh_family = FAMILY_V4;
		next.ipv4_nh = r->via.word[3];
	} else {
		next.nh_family = FAMILY_V6;
		__builtin_memcpy(next.ipv6_nh, &r->via, sizeof(r->via));
	}
	if (route_hop(ctx, p) < 0)
		return -DROP_MALFORMED;
	bpf_redirect_neigh(r->ifindex, &next, sizeof(next), 0);
	return TO_NATIVE;
}

// The fabric knows pod CIDRs: to the next hop that the kernel's routes name. Anything but a plain answer is the
// stack's (bpf_fib_lookup reports conditions of its own: an MTU it was not asked about, a rule it cannot follow).
static __always_inline int to_fabric(struct __sk_buff *ctx, const struct packet *p)
{
	struct bpf_redir_neigh next = {};
	struct bpf_fib_lookup fib = {.ifindex = ctx->ifindex};
	int rc;

	if (addr_is_v4(&p->dst)) {
		fib.family = FAMILY_V4;
		fib.ipv4_src = p->src.word[3];
		fib.ipv4_dst = p->dst.word[3];
	} else {
		fib.family = FAMILY_V6;
		__builtin_memcpy(fib.ipv6_src, &p->src, sizeof(p->src));
		__builtin_memcpy(fib.ipv6_dst, &p->dst, sizeof(p->dst));
	}
	rc = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if ((rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH) || is_too_big(ctx, fib.ifindex))
		return TO_STACK;
	next.nh_family = fib.family;
	__builtin_memcpy(next.ipv6_nh, fib.ipv6_dst, sizeof(next.ipv6_nh));
	if (route_hop(ctx, p) < 0)
		return -DROP_MALFORMED;
	bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
	return TO_FABRIC;
}

// To the tunnel device, whose own program addresses the packet, outside and inside.
static __always_inline int to_tunnel_device(struct __sk_buff *ctx, const struct packet *p)
{
	struct config *cfg = get_config();

	if (!cfg || !cfg->tunnel_ifindex)
		return -DROP_NO_TUNNEL_PEER;
	if (is_too_big(ctx, cfg->tunnel_ifindex))
		return TO_STACK;
	if (route_hop(ctx, p) < 0)
		return -DROP_MALFORMED;
	bpf_redirect(cfg->tunnel_ifindex, 0);
	return TO_TUNNEL;
}

__noinline int to_remote(struct __sk_buff *ctx, struct packet *p, struct remote *r)
{
	if (!p || !r)
		return TO_STACK;
	switch (r->kind) {
	case REMOTE_NATIVE:
		return to_native(ctx, p, r);
	case REMOTE_FABRIC:
		return to_fabric(ctx, p);
	case REMOTE_TUNNEL:
		return to_tunnel_device(ctx, p);
	}
	return TO_STACK;
}

// All nodes' tunnel devices have one MAC address, so that nobody has to learn any. The sender's must be another:
// a VXLAN device takes what comes from its own address for a loop (vxlan_set_mac in drivers/net/vxlan).
static __always_inline int set_tunnel_macs(struct __sk_buff *ctx)
{
	struct mac to = {{0x02, 'p', 'o', 'l', 'd', 'r'}}, from = {{0x06, 'p', 'o', 'l', 'd', 'r'}};

	return set_macs(ctx, &to, &from);
}

// The outer packet's addresses. remote_ipv4 is in host byte order, remote_ipv6 in network byte order
// (include/uapi/linux/bpf.h); the local address is left to the kernel's routes: a fabric drops others.
static __always_inline int set_tunnel_key(struct __sk_buff *ctx, const struct addr *node, __u32 vni)
{
	struct bpf_tunnel_key key = {.tunnel_id = vni, .tunnel_ttl = 64};
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (addr_is_v4(node)) {
		key.remote_ipv4 = bpf_ntohl(node->word[3]);
	} else {
		__builtin_memcpy(key.remote_ipv6, node, sizeof(*node));
		flags = BPF_F_TUNINFO_IPV6; // IPv6 wants the checksum (RFC 8200, 8.1)
	}
	return bpf_skb_set_tunnel_key(ctx, &key, offsetof(struct bpf_tunnel_key, local_ipv4), flags);
}
