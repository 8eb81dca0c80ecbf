output "network_id" {
  description = "Id of the network."
  value       = google_compute_network.this.id
}

output "subnetwork_id" {
  description = "Id of the subnet with the machines."
  value       = google_compute_subnetwork.nodes.id
}

output "pods_range_name" {
  description = "Name of the secondary range of the pods."
  value       = google_compute_subnetwork.nodes.secondary_ip_range[0].range_name
}

output "services_range_name" {
  description = "Name of the secondary range of the services."
  value       = google_compute_subnetwork.nodes.secondary_ip_range[1].range_name
}

output "private_services_range_name" {
  description = "Name of the range that managed services take addresses from."
  value       = google_compute_global_address.private_services.name
}

output "private_services_cidr" {
  description = "Range that managed services take addresses from: where the database and the cache are."
  value       = "${google_compute_global_address.private_services.address}/${google_compute_global_address.private_services.prefix_length}"
}
